"""Is the gradient lost in rounding, and does it matter beside the noise of the batch?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from qprobe.analyzers.measured import Measured
from qprobe.records.schema import Cause, Finding, Record, Role, Severity, severity

NAME = "gradients"
FIDELITY = "gradient_fidelity"
UNIT = "share of the first-order loss decrease"
NOISE = "quantization noise over batch noise"
CONTROL = "the same products of the same gradient, input and weight in high precision"
REFERENCE = "docs/concepts/gradients.md; Croci et al. 2022 for the split of bias and variance"
#: A gradient of which more than this is gone has not been rounded, it has underflowed.
UNDERFLOWED = 0.5
#: From this share of the loss decrease a bias warns. Healthy layers under stochastic rounding and
#: to nearest lose at most 4 % in either direction.
BIASED = 0.1
#: Two standard errors on both sides.
_SURE = 1.96
#: Quantization noise of this many times the noise of the batch is told; healthy layers: 0.3.
NOISY = 1.0


class Gradients:
    """Reads cosine, projection, bias and variance of dw and dx beside the noise of the batch.

    A bias does not average out over steps, so it is judged by itself. Variance matters only beside
    what the choice of the batch does anyway: far below that it is no finding, however low the ratio
    of signal to noise.
    """

    name = NAME
    reads = frozenset({FIDELITY})

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        """At most one finding a layer: underflow, else bias, else noise."""
        fidelity = Measured(records, FIDELITY)
        found = []
        for place in fidelity.places():
            values = fidelity.at(place)
            lost = [one for gemm in ("wgrad", "dgrad") for one in _lost(gemm, values)]
            worst = max(lost, key=lambda one: one.low, default=None)
            if worst is not None and worst.low >= BIASED:
                found.append(_finding(place.site, worst))
            else:
                found += _noisy(place.site, values)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lost:
    """Share of the loss decrease that one product loses, with its interval over draws."""

    gemm: str
    estimate: float
    low: float
    high: float
    n: int
    drawn: bool


def _lost(gemm: str, values: Mapping[str, float]) -> Iterator[_Lost]:
    n = int(values.get(f"{gemm}.n", values.get("n", 1)))
    projection = values.get(f"{gemm}.draws.projection")
    stderr = values.get(f"{gemm}.draws.projection_stderr")
    if projection is not None and stderr is not None:
        lost, off = 1.0 - projection, _SURE * stderr
        yield _Lost(
            gemm=gemm, estimate=lost, low=lost - off, high=lost + off, n=max(1, n), drawn=True
        )
        return
    projection = values.get(f"{gemm}.projection")
    if projection is not None:
        lost = 1.0 - projection
        yield _Lost(gemm=gemm, estimate=lost, low=lost, high=lost, n=max(1, n), drawn=False)


def _finding(site: str, lost: _Lost) -> Finding:
    gone = lost.low >= UNDERFLOWED
    target = {"wgrad": "the weight", "dgrad": "the input"}[lost.gemm]
    how = "underflows" if gone else "is systematically short"
    if gone:
        remedy = "give gradients a factor per tensor, or scale the loss; rounding is not the reason"
    elif lost.drawn:
        remedy = "compare its gradient's quantizer with the recipe, or keep it in high precision"
    else:
        remedy = "round its gradient stochastically, rotate wgrad (RHT), or tile the weight in 2D"
    return Finding(
        analyzer=NAME,
        claim=f"the gradient of {target} of {site} {how}: {lost.estimate:.0%} of the step is lost",
        cause=Cause.SCALE_MISSING if gone else Cause.ROUNDING_BIAS,
        severity=severity(None, unscored=Severity.WARN),
        sites=(site,),
        roles=(Role.GRAD_OUTPUT,),
        effect=lost.estimate,
        unit=UNIT,
        low=lost.low,
        high=lost.high,
        n=lost.n,
        control=CONTROL,
        remedy=remedy,
        reference=REFERENCE,
    )


def _noisy(site: str, values: Mapping[str, float]) -> Iterator[Finding]:
    ratio = values.get("wgrad.halves.noise_ratio")
    if ratio is None or not NOISY <= ratio < inf:
        return
    yield Finding(
        analyzer=NAME,
        claim=(
            f"quantization puts {ratio:.1f} times the noise of the batch into the gradient of "
            f"{site}"
        ),
        cause=Cause.NOT_EXPLAINED,
        severity=Severity.INFO,
        sites=(site,),
        roles=(Role.GRAD_OUTPUT,),
        effect=ratio,
        unit=NOISE,
        low=ratio,
        high=ratio,
        n=max(1, int(values.get("n", 1))),
        control="the gradients of two halves of the examples in high precision",
        remedy="rotate wgrad (RHT) or keep its operands in high precision; a larger batch only "
        "helps noise that is drawn anew",
        reference="McCandlish et al. 2018, An empirical model of large-batch training, sec. 2.2",
    )
