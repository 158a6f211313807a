"""What the records of the curvature say: is the weights' error paid for, and where."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scipy import stats

from qprobe.records.schema import Cause, Finding, Record, Role, Severity

PROBE = "curvature"

#: Share of the loss below which a change of it does not matter.
_TOLERATED = 0.01
#: A few layers are those that hold this share of the cost, in at most this share of the layers.
_MOST = 0.8
_FEW = 0.25
_CONTROL = "the same weights in high precision"
_WIDENED = "the model is in half precision, and was copied to float32 for this"
_REFERENCE = "LeCun, Denker, Solla 1989, eq. 1; Yao et al. 2020"

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """A change of the loss with its 95 % limits, ``estimate ± t·stderr`` over the units."""

    estimate: float
    low: float
    high: float


def findings(records: Sequence[Record]) -> list[Finding]:
    """One finding about the whole, and one about single layers where few of them pay for it."""
    sites: dict[str, dict[str, float]] = defaultdict(dict)
    for one in sorted((r for r in records if r.probe == PROBE), key=lambda r: r.step):
        sites[one.site][one.key] = one.value
    whole = sites.pop("", {})
    if not {"predicted", "measured", "loss", "units", "samples"} <= whole.keys():
        return []
    units, samples = int(whole["units"]), int(whole["samples"])
    found = _judged(whole, sites, units, samples)
    if whole.get("widened"):
        return [replace(one, control=f"{one.control}; {_WIDENED}") for one in found]
    return found


def _judged(whole: Values, sites: Mapping[str, Values], units: int, samples: int) -> list[Finding]:
    predicted = _change(whole, "predicted", units)
    measured = _change(whole, "measured", units)
    if not (predicted.low <= measured.high and measured.low <= predicted.high):
        return [_not_second_order(predicted, measured, samples)]
    limit = _TOLERATED * abs(whole["loss"])
    if predicted.high <= limit:
        return [_tolerated(predicted, measured, limit, samples)]
    if predicted.low <= limit:
        return [_undecided(predicted, limit, samples)]
    layers = {path: _change(found, "predicted", units) for path, found in sites.items()
              if "predicted" in found}  # fmt: skip
    return [_costs(predicted, measured, layers, samples)]


def _change(values: Values, key: str, units: int) -> _Change:
    estimate = values[key]
    half = float(stats.t.ppf(0.975, units - 1)) * values[f"{key}.stderr"]
    return _Change(estimate=estimate, low=estimate - half, high=estimate + half)


def _tolerated(predicted: _Change, measured: _Change, limit: float, n: int) -> Finding:
    claim = (
        f"the minimum tolerates the rounding of the weights: to second order the loss changes by "
        f"{predicted.estimate:+.3g}, at most {predicted.high:+.3g} and below the {limit:.3g} that "
        f"would matter; measured {measured.estimate:+.3g}"
    )
    remedy = "leave the weights as they are; look for a loss of score in the activations"
    return _finding(claim, predicted, n, (Severity.INFO, remedy))


def _undecided(predicted: _Change, limit: float, n: int) -> Finding:
    claim = (
        f"whether the minimum tolerates the rounding of the weights is not decided: the predicted "
        f"change of the loss lies between {predicted.low:+.3g} and {predicted.high:+.3g}, on both "
        f"sides of the {limit:.3g} that would matter"
    )
    return _finding(claim, predicted, n, (Severity.INFO, "measure on more batches"))


def _not_second_order(predicted: _Change, measured: _Change, n: int) -> Finding:
    claim = (
        f"the rounding of the weights is too coarse for curvature to describe: it changes the loss "
        f"by {measured.estimate:+.3g}, and the second order predicts {predicted.estimate:+.3g}"
    )
    remedy = "rank layers by the measured recovery ('dequantization'), not by curvature"
    worse = Severity.WARN if measured.low > 0 else Severity.INFO
    return _finding(claim, measured, n, (worse, remedy))


def _costs(predicted: _Change, measured: _Change, layers: Mapping[str, _Change], n: int) -> Finding:
    paying = sorted(
        ((path, one) for path, one in layers.items() if one.low > 0),
        key=lambda item: -item[1].estimate,
    )
    positive = sum(max(one.estimate, 0.0) for one in layers.values())
    few, held = [], 0.0
    for path, one in paying:
        if held >= _MOST * positive:
            break
        few.append(path)
        held += one.estimate
    claim = (
        f"the rounding of the weights raises the loss by {predicted.estimate:.3g} to second order "
        f"(measured {measured.estimate:+.3g})"
    )
    if held < _MOST * positive or len(few) > max(1, _FEW * len(layers)):
        remedy = "no few layers to blame: use a finer format or scale for all weights"
        return _finding(f"{claim}, spread over the layers", predicted, n, (Severity.WARN, remedy))
    share = 100 * held / positive
    claim = f"{claim}; {share:.0f} % of it in {len(few)} of {len(layers)} layers: {', '.join(few)}"
    remedy = "keep these layers in high precision and confirm with 'dequantization'"
    return _finding(claim, predicted, n, (Severity.WARN, remedy), tuple(few))


def _finding(
    claim: str,
    change: _Change,
    n: int,
    advice: tuple[Severity, str],
    sites: tuple[str, ...] = (),
) -> Finding:
    severity, remedy = advice
    costs = severity is not Severity.INFO
    return Finding(
        analyzer=PROBE,
        claim=claim,
        cause=Cause.TOO_FEW_BITS if costs else Cause.NOT_EXPLAINED,
        severity=severity,
        sites=sites,
        roles=(Role.WEIGHT,),
        effect=change.estimate,
        unit="loss",
        low=change.low,
        high=change.high,
        n=n,
        control=_CONTROL,
        remedy=remedy,
        reference=_REFERENCE,
    )
