"""Does each layer do to its operands what its recipe intends?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qprobe.analyzers.base import Subject
from qprobe.analyzers.conformance.evidence import NAMED, Conformity, examine
from qprobe.analyzers.measured import Measured, Place
from qprobe.analyzers.observation import observe
from qprobe.probes.base import Field, SiteView
from qprobe.probes.operands import PerOperand, taken
from qprobe.probes.selection import multiplies
from qprobe.records.schema import Array, Cause, Finding, Record, Role, Severity, severity
from qprobe.sites import Site

NAME = "conformance"
UNIT = "share of the operand's energy"
CONTROL = "the same tensor quantized as the layer's recipe says"
REFERENCE = "docs/concepts/diagnosis.md, conformance"
#: A cause is named when it accounts for this share of the deviation's energy.
EXPLAINED = 0.8
#: Causes this close are told apart by their order, the more special one first.
_TIE = 0.01
#: Of the noise of rounding itself; what deviates by less is in the eleventh bit of a tie.
TOLD = 1e-6
#: From this share of the intended noise a deviation warns: 0.4 dB.
WARNS = 0.1
#: Share of elements that never move, from which rounding is not stochastic. Of n elements the
#: share of a faithful quantizer is within 1/√n of 0; layers have thousands.
FROZEN = 0.05

_REMEDY = {
    Cause.SCALE_MISSING: "multiply block scales by the tensor's own factor, max|x|/(448·6)",
    Cause.SCALE_WRONG: "take scales from the tensor that is quantized, not from an earlier one",
    Cause.WRONG_AXIS: "lay scales along the axis that the product sums over, and read them there",
    Cause.TOO_FEW_BITS: "give the layer the bits that its recipe says",
    Cause.ROUNDING_BIAS: "round this operand stochastically, as the recipe says",
    Cause.NOT_EXPLAINED: "keep the layer in high precision and compare its quantizer with "
    "qprobe.quant.fake_quantize element by element",
}


class _Operands:
    """The probe: every operand of every layer under a recipe, on a few examples."""

    name = NAME
    needs: frozenset[Role | Field] = frozenset({Role.OUTPUT})

    def selects(self, site: Site) -> bool:
        return multiplies(site)

    def observe(self, view: SiteView) -> PerOperand[Conformity] | None:
        return PerOperand.of({one.key: examine(one) for one in taken(view, None)})


class Conformance:
    """Compares what a layer's quantizer gives back with what its recipe intends.

    The quantizer is called as the layer calls it, on the tensors that the layer gets; what it is
    and how it works is not looked at. Where it deviates, the deviation is compared with what each
    known defect of a quantizer would give: the one that accounts for most of it is named.
    """

    name = NAME
    reads = frozenset({NAME})

    def __init__(self, batches: int = 1) -> None:
        self._batches = batches

    def measure(self, subject: Subject) -> Iterator[Record | Array]:
        """Look at every operand of the first batches; the model is left as it was."""
        yield from observe(subject, [_Operands()], batches=self._batches).records

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        """One finding a layer and cause."""
        measured = Measured(records, NAME)
        by_cause: dict[tuple[str, Cause], list[_Deviation]] = {}
        for place in measured.places():
            for one in _deviations(place, measured.at(place)):
                by_cause.setdefault((place.site, one.cause), []).append(one)
        return [_finding(site, cause, every) for (site, cause), every in by_cause.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Deviation:
    """One operand that is not what it should be."""

    operand: str
    role: Role
    cause: Cause
    #: Share of the operand's energy.
    share: float
    warns: bool
    text: str
    n: int


def _deviations(place: Place, values: Mapping[str, float]) -> Iterator[_Deviation]:
    for operand in sorted({".".join(key.split(".")[:2]) for key in values if key.count(".") > 1}):
        of = {
            key.removeprefix(f"{operand}."): value
            for key, value in values.items()
            if key.startswith(f"{operand}.")
        }
        found = _judged(of)
        if found is not None:
            cause, share, warns, text = found
            yield _Deviation(
                operand=operand,
                role=Role(place.role),
                cause=cause,
                share=share,
                warns=warns,
                text=text,
                n=int(of["n"]),
            )


def _judged(of: Mapping[str, float]) -> tuple[Cause, float, bool, str] | None:
    """Cause, effect, whether it warns, and the claim's words, of one operand; None where well."""
    intended, off = of.get("intended_noise_share"), of.get("deviation_share")
    if off is not None and off > TOLD * (intended or 0.0) and of["deviating"] > 0.0:
        cause = named(of)
        parameter = of.get(f"{cause}.parameter")
        return cause, off, off >= WARNS * (intended or 0.0), _says(cause, parameter)
    frozen = of.get("frozen")
    if frozen is not None and frozen >= FROZEN:
        # Every frozen element carries a bias, whose energy the squared bias estimates.
        share = max(of.get("squared_bias_share", 0.0), 0.0)
        return Cause.ROUNDING_BIAS, share, True, f"{frozen:.0%} rounds the same way in every draw"
    return None


def named(of: Mapping[str, float]) -> Cause:
    """The cause that accounts for most of a deviation; none where too much is left."""
    shares = {cause: of.get(f"{cause}.explained", 0.0) for cause in NAMED}
    most = max(shares.values())
    if most < EXPLAINED:
        return Cause.NOT_EXPLAINED
    return next(cause for cause in NAMED if shares[cause] >= most - _TIE)


def _says(cause: Cause, parameter: float | None) -> str:
    if cause is Cause.SCALE_WRONG and parameter is not None:
        way = "large" if parameter > 1 else "small"
        factor = parameter if parameter > 1 else 1.0 / max(parameter, 1e-30)
        return f"scales are {factor:.3g} times too {way}"
    if cause is Cause.SCALE_MISSING and parameter is not None:
        return f"the tensor's factor is the constant {parameter:.3g}"
    if cause is Cause.TOO_FEW_BITS and parameter is not None:
        return f"values are integers of {parameter:.0f} bits"
    if cause is Cause.WRONG_AXIS:
        return "scales belong to another axis"
    return "values follow no pattern that is known"


def _finding(site: str, cause: Cause, every: Sequence[_Deviation]) -> Finding:
    worst = max(every, key=lambda one: one.share)
    operands = ", ".join(sorted(one.operand for one in every))
    warns = any(one.warns for one in every)
    return Finding(
        analyzer=NAME,
        claim=f"{site} does not quantize {operands} as its recipe says: {worst.text}",
        cause=cause,
        severity=severity(None, unscored=Severity.WARN if warns else Severity.INFO),
        sites=(site,),
        roles=tuple(dict.fromkeys(one.role for one in every)),
        effect=worst.share,
        unit=UNIT,
        low=worst.share,
        high=worst.share,
        n=worst.n,
        control=CONTROL,
        remedy=_REMEDY[cause],
        reference=REFERENCE,
    )
