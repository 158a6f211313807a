"""What the records of a dequantization say, as claims that a person can act on."""

from collections.abc import Iterator
from math import inf
from typing import TypedDict

from qprobe.analyzers.dequantization.combine import AND
from qprobe.analyzers.dequantization.emit import PROBE, Entry, Measured
from qprobe.inference import Interval, of_family
from qprobe.records.schema import Cause, Finding, Role, Severity, severity

REFERENCE = "incremental dequantization: MedQuanBench, figure 3 and table 11"
FIRST_ORDER = "first-order loss decrease: Nocedal, Wright 2006, sec. 2.2"
CONTROL = "the same weights and batches, all layers as they are; paired draws of the same groups"
#: An interaction is told from this share of the gap.
TOLD = 0.1
#: From this share of the loss decrease that is lost a product of the backward pass is told.
LOST = 0.05
#: A screen whose rank agreement is surely above this may be trusted alone.
TRUSTED = 0.5
_OPERAND = {Role.INPUT: "its input", Role.WEIGHT: "its weight"}


def findings(measured: Measured) -> list[Finding]:
    """Every finding, most urgent first and of equals the largest loss first."""
    if not measured:
        return []
    found = [*_gap(measured)]
    if _has_loss(measured):
        found += [*_layers(measured), *_set(measured), *_interactions(measured)]
    found += [*_trust(measured), *_gradients(measured)]
    urgent = list(Severity)
    return sorted(found, key=lambda one: -urgent.index(one.severity))  # stable: order of stages


def normalized(recovery: Interval, gap: Interval | None) -> float | None:
    """R_l = ΔM_l/(M_fp − M_q); None unless the interval of the gap excludes 0."""
    if gap is None or not gap.excludes(0.0):
        return None
    return recovery.estimate / gap.estimate


def together(measured: Measured) -> dict[str, Interval]:
    """Recoveries of single layers with limits that hold for all of the model's layers together.

    Whichever layer stands out was chosen among all, also where a race measured only some.
    """
    found = measured.intervals("recovery")
    layers = max(len(found), int(measured.value("layers") or 0))
    return {path: of_family(one, layers) for path, one in found.items()}


def _has_loss(measured: Measured) -> bool:
    gap = measured.interval("gap")
    return gap is not None and gap.low > 0.0


def _gap(measured: Measured) -> Iterator[Finding]:
    gap, high = measured.interval("gap"), measured.interval("score.high_precision")
    if gap is None or high is None:
        return
    if gap.low > 0.0:
        claim = (
            f"quantization costs {gap.estimate:.4g} of a score of {high.estimate:.4g}"
            f" ({_share(gap.estimate, high)})"
        )
        remedy = "put back the layers named beside this, or take a finer recipe"
    elif gap.high < 0.0:
        claim = f"the quantized model scores {-gap.estimate:.4g} better than in high precision"
        remedy = "nothing to do"
    else:
        claim = (
            f"no loss to recover: the quantized model scores {gap.estimate:+.4g} below high "
            "precision, and the interval holds 0"
        )
        remedy = "nothing to do; more validation samples would narrow the interval"
    yield Finding(
        **_told(gap),
        claim=claim,
        cause=Cause.NOT_EXPLAINED,
        severity=_severity(gap, high),
        sites=(),
        roles=(),
        control="the same weights in high precision, on the same batches",
        remedy=remedy,
        reference=REFERENCE,
    )


def _layers(measured: Measured) -> Iterator[Finding]:
    """Layers that recover something by their own limits, told with those that hold together."""
    gap, high = measured.interval("gap"), measured.interval("score.high_precision")
    alone = measured.intervals("recovery")
    for path, found in sorted(together(measured).items(), key=lambda one: -one[1].estimate):
        if alone[path].low <= 0.0 or high is None:
            continue
        share = normalized(found, gap)
        operand = _operand(measured, path, alone[path])
        what = "" if operand is None else f", nearly all of it by {_OPERAND[operand]} alone"
        of_gap = "" if share is None else f", {share:.0%} of what is lost"
        unsure = "" if found.low > 0.0 else "; of so many layers one may look so by chance"
        yield Finding(
            **_told(found),
            claim=f"{path} in high precision recovers {found.estimate:.4g}{of_gap}{what}{unsure}",
            cause=Cause.NOT_EXPLAINED,
            severity=_severity(found, high),
            sites=(path,),
            roles=(Role.INPUT, Role.WEIGHT) if operand is None else (operand,),
            control=f"{CONTROL}; limits hold for all layers together",
            remedy=_remedy(path, operand),
            reference=REFERENCE,
        )


def _remedy(path: str, operand: Role | None) -> str:
    keep = f"keep it in high precision: override(model, {{{path!r}: 'bf16'}})"
    if operand is None:
        return keep
    return f"{keep}; or give {_OPERAND[operand]} a finer granularity, since that is enough"


def _operand(measured: Measured, path: str, whole: Interval) -> Role | None:
    """The operand that recovers most of the layer, where the other one surely does not."""
    found = {role: measured.interval("recovery", path, str(role)) for role in _OPERAND}
    known = {role: one for role, one in found.items() if one is not None}
    if len(known) < len(_OPERAND):
        return None
    first, second = sorted(known, key=lambda role: -known[role].estimate)
    enough = known[first].estimate >= 0.75 * whole.estimate
    return first if enough and known[second].high < known[first].low else None


def _set(measured: Measured) -> Iterator[Finding]:
    steps = sorted(measured.entries("cumulative"), key=lambda one: one.step)
    high = measured.interval("score.high_precision")
    if len(steps) < 2 or high is None:
        return
    last = steps[-1]
    paths = tuple(one.site for one in steps)
    alone = measured.value("cumulative.additive", last.site, step=last.step)
    left = measured.interval("cumulative.left", last.site, step=last.step)
    yield Finding(
        **_told(last.interval),
        claim=(
            f"{len(paths)} layers in high precision recover {last.interval.estimate:.4g} together"
            f"{_against(last, alone)}{_rest(left)}"
        ),
        cause=Cause.NOT_EXPLAINED,
        severity=_severity(last.interval, high),
        sites=paths,
        roles=(Role.INPUT, Role.WEIGHT),
        control=CONTROL,
        remedy="override(model, {" + ", ".join(f"{path!r}: 'bf16'" for path in paths) + "})",
        reference=REFERENCE,
    )


def _against(last: Entry, alone: float | None) -> str:
    """How the set does against what its layers do alone."""
    if alone is None:
        return ""
    if last.interval.low > alone:
        return f", more than the {alone:.4g} that they recover alone"
    if last.interval.high < alone:
        return f", less than the {alone:.4g} that they recover alone"
    return f"; alone they add up to {alone:.4g}, no sure difference"


def _rest(left: Interval | None) -> str:
    if left is None:
        return ""
    if left.low <= 0.0:
        return "; what is left of the loss may be nothing"
    return f"; {left.estimate:.4g} is still lost"


def interactions(measured: Measured) -> list[Entry]:
    """Pairs that surely do not add up, by a share of the gap that is worth telling.

    Their limits hold for all pairs together, as they were recorded.
    """
    gap = measured.interval("gap")
    if gap is None:
        return []
    return [
        one
        for one in measured.entries("interaction")
        if one.interval.excludes(0.0) and abs(one.interval.estimate) >= TOLD * gap.estimate
    ]


def pair(entry: Entry) -> tuple[str, ...]:
    """The layers of an interaction."""
    return tuple(entry.site.split(AND))


def _interactions(measured: Measured) -> Iterator[Finding]:
    for one in interactions(measured):
        found, sites = one.interval, pair(one)
        fails = "fail together" if found.estimate > 0 else "fail in each other's place"
        more = "more" if found.estimate > 0 else "less"
        yield Finding(
            **_told(found),
            claim=f"{' and '.join(sites)} {fails}: together they recover "
            f"{abs(found.estimate):.4g} {more} than the sum of what each recovers alone",
            cause=Cause.NOT_EXPLAINED,
            severity=Severity.INFO,
            sites=sites,
            roles=(Role.INPUT, Role.WEIGHT),
            control="the sum of what both recover alone, on the same draws; limits hold for all "
            "pairs together",
            remedy="put back both or neither"
            if found.estimate > 0
            else "one of them may be enough",
            reference="interaction I(A) = Δ(A) − Σ Δ({l})",
        )


def _trust(measured: Measured) -> Iterator[Finding]:
    tau = measured.interval("agreement")
    if tau is None:
        return
    trusted = tau.low > TRUSTED
    yield Finding(
        **_told(tau, "Kendall's tau-b"),
        claim=(
            f"the first-order screen orders {tau.n} measured layers "
            f"{'like' if trusted else 'not reliably like'} their true recovery"
        ),
        cause=Cause.NOT_EXPLAINED,
        severity=Severity.INFO,
        sites=(),
        roles=(),
        control="exact recovery of the raced layers and of random ones",
        remedy=(
            "the quick list can be trusted on this model"
            if trusted
            else "do not act on the quick list alone; measure exhaustively"
        ),
        reference="Kendall 1945, tau-b; Fieller, Hartley, Pearson 1957",
    )


def _gradients(measured: Measured) -> Iterator[Finding]:
    yield from _of_one_batch(measured)
    lost = [one for one in measured.entries("lost_decrease") if one.interval.low >= LOST]
    for one in sorted(lost, key=lambda one: -one.interval.estimate):
        gemm, operand = one.role.split()
        role = {"dy": Role.GRAD_OUTPUT, "x": Role.INPUT, "w": Role.WEIGHT}[operand]
        yield Finding(
            **_told(one.interval, "share of the first-order loss decrease"),
            claim=(
                f"quantizing {operand} of {gemm} loses {one.interval.estimate:.0%} of the "
                f"first-order loss decrease at {one.site}"
            ),
            cause=Cause.NOT_EXPLAINED,
            severity=severity(None, unscored=Severity.WARN),
            sites=(one.site,),
            roles=(role,),
            control="the same product of the same operands in high precision",
            remedy=f"leave {operand} of {gemm} in high precision, or round it stochastically",
            reference=FIRST_ORDER,
        )


def _of_one_batch(measured: Measured) -> Iterator[Finding]:
    """What one batch shows of the backward products has no interval, and so proves nothing."""
    values = measured.single("lost_decrease")
    if not values:
        return
    (site, product), worst = max(values.items(), key=lambda one: abs(one[1]))
    gemm, operand = product.split()
    yield Finding(
        analyzer=PROBE,
        claim=(
            f"n = 1 batch, no interval: quantizing {operand} of {gemm} loses {worst:.0%} of the "
            f"first-order loss decrease at {site}, the most of {len(values)} backward operands"
        ),
        cause=Cause.NOT_EXPLAINED,
        severity=Severity.INFO,
        sites=(site,),
        roles=(Role.GRAD_OUTPUT,),
        effect=worst,
        unit="share of the first-order loss decrease",
        low=-inf,
        high=inf,
        n=1,
        control="the same product of the same operands in high precision",
        remedy="give batches() at least 2 batches; then this has an interval",
        reference=FIRST_ORDER,
    )


class _Told(TypedDict):
    analyzer: str
    effect: float
    unit: str
    low: float
    high: float
    n: int


def _told(found: Interval, unit: str = "score") -> _Told:
    return {
        "analyzer": PROBE,
        "effect": found.estimate,
        "unit": unit,
        "low": found.low,
        "high": found.high,
        "n": found.n,
    }


def _severity(loss: Interval, high: Interval) -> Severity:
    """From the lower bound relative to what the model scores in high precision."""
    scale = abs(high.estimate)
    return severity(loss.low / scale) if scale else severity(None)


def _share(loss: float, high: Interval) -> str:
    return f"{loss / abs(high.estimate):.1%}" if high.estimate else "of nothing"
