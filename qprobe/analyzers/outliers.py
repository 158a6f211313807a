"""Which granularity does each layer need, and are there outliers that make it need one?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from qprobe.analyzers.measured import Measured
from qprobe.probes.output_error import INTENDED, ROTATED, SMOOTHED, W_HIGH, X_HIGH
from qprobe.records.schema import Cause, Finding, Record, Role, Severity, severity

NAME = "outliers"
MOMENTS, ERROR = "moments", "output_error"
CONTROL = "the same layer, input and weight in high precision"
REFERENCE = "docs/concepts/diagnosis.md, outliers; Xiao et al. 2023, SmoothQuant"
CHANNELS, TOKENS = "times the median channel", "times the median token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of outlier: where it is looked for, and from when it is told.

    Limits stand above what healthy models show (docs/concepts/diagnosis.md has the numbers).
    ``gain`` is by how much the best remedy cuts the noise of the layer's output; an outlier that no
    granularity minds is no finding.
    """

    cause: Cause
    role: Role
    statistics: tuple[str, ...]
    #: The statistic is an energy, of which the square root is told.
    energy: bool
    limit: float
    gain: float
    unit: str
    what: str


KINDS = (
    Kind(
        cause=Cause.SPATIAL_OUTLIER,
        role=Role.INPUT,
        statistics=("token_mean_square",),
        energy=True,
        limit=8.0,
        gain=0.0,
        unit=TOKENS,
        what="one token or voxel of the input",
    ),
    Kind(
        cause=Cause.CHANNEL_OUTLIER,
        role=Role.INPUT,
        statistics=("channel_std", "channel_absmax"),
        energy=False,
        limit=7.0,
        gain=1.1,
        unit=CHANNELS,
        what="one channel of the input",
    ),
    Kind(
        cause=Cause.CHANNEL_OUTLIER,
        role=Role.WEIGHT,
        statistics=("channel_std", "channel_absmax"),
        energy=False,
        limit=4.0,
        gain=1.1,
        unit=CHANNELS,
        what="the weights of one input channel",
    ),
)

_REMEDIES = {
    SMOOTHED: "move the scale of channels from input to weight: quant.ptq.smooth",
    ROTATED: "rotate both operands of the forward product: a recipe with RHT on fprop",
    "x_tensor": "give its input one scale: granularity tensor",
    "x_channel": "give its input one scale a channel: granularity channel",
    "x_token": "give its input one scale a token: granularity token",
    "x_voxel": "give its input one scale a voxel: granularity voxel",
    X_HIGH: "keep its input in high precision",
    W_HIGH: "keep its weight in high precision",
}
_GRANULARITIES = tuple(way for way in _REMEDIES if way not in (X_HIGH, W_HIGH))
#: A granularity is recommended from this cut of the noise; else the operand stays as it was.
_WORTHWHILE = 1.5
#: An outlier does harm where its layer's output is this many times as noisy as that of the median
#: other layer: transformers have tokens and channels far above the rest, and live with them.
NOISIER = 2.5
#: Or where this share of the output's energy is noise, 10 dB, however noisy the others are.
LOUD = 0.1


class Outliers:
    """Reads moments of inputs and weights, and what remedies do to the noise of outputs.

    Where the largest channel or token of an operand is out of line, the layer's output is noisier
    than that of other layers, and finer scales would cut the noise, it says which and by how much.
    """

    name = NAME
    reads = frozenset({MOMENTS, ERROR})

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        """One finding a layer and kind of outlier."""
        moments, errors = Measured(records, MOMENTS), Measured(records, ERROR)
        noise = {place.site: errors.at(place) for place in errors.places()}
        return [
            _finding(site, found)
            for site, values in noise.items()
            if _harmed(site, noise)
            for found in _found(site, moments, values)
        ]


def _harmed(site: str, noise: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether a layer's output is noisier than usual in its model, or very noisy by itself."""
    key = f"{INTENDED}.noise_share"
    others = [values[key] for path, values in noise.items() if path != site and key in values]
    mine = noise[site].get(key, 0.0)
    return not others or mine >= min(LOUD, NOISIER * median(others))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outlier:
    kind: Kind
    size: float
    n: int
    noise: float
    way: str
    #: The noise that the remedy leaves.
    left: float


def _found(site: str, moments: Measured, values: Mapping[str, float]) -> Iterator[_Outlier]:
    shares = {
        key.removesuffix(".noise_share"): value
        for key, value in values.items()
        if key.endswith(".noise_share")
    }
    if INTENDED not in shares:
        return
    sizes = {kind: _size(site, moments, kind) for kind in KINDS}
    told: set[Role] = set()
    # One token that holds all the energy is in some channel too, and the other way round: the
    # larger one is the outlier.
    for kind in sorted(KINDS, key=lambda kind: -(sizes[kind] or 0.0)):
        size, n = sizes[kind], moments.value(site, kind.role, "n")
        if size is None or n is None or size < kind.limit or kind.role in told:
            continue
        told.add(kind.role)
        if shares[INTENDED] < kind.gain * min(_granular(shares).values(), default=0.0):
            continue
        way, left = _remedy(shares, kind.role)
        yield _Outlier(kind=kind, size=size, n=int(n), noise=shares[INTENDED], way=way, left=left)


def _size(site: str, moments: Measured, kind: Kind) -> float | None:
    """How large the largest is beside the median one: by the least of the statistics that say so.

    A channel that hardly varies has a tiny standard deviation and may be as large as any, so a
    channel is out of line only if its largest magnitude is too.
    """
    ratios = []
    for name in kind.statistics:
        over = moments.value(site, kind.role, f"{name}_max")
        under = moments.value(site, kind.role, f"{name}_median")
        if over is None or not under:
            return None
        ratios.append(over / under)
    smallest = min(ratios)
    return float(smallest**0.5) if kind.energy else smallest


def _remedy(shares: Mapping[str, float], role: Role) -> tuple[str, float]:
    """The granularity that leaves the least noise, or high precision where none is worthwhile."""
    ways = _granular(shares)
    best = min(ways, key=lambda way: ways[way], default=None)
    if best is not None and shares[INTENDED] >= _WORTHWHILE * ways[best]:
        return best, ways[best]
    high = W_HIGH if role is Role.WEIGHT else X_HIGH
    return (high, shares[high]) if high in shares else (best or high, shares[INTENDED])


def _granular(shares: Mapping[str, float]) -> dict[str, float]:
    """The noise that each granularity leaves."""
    return {way: shares[way] for way in _GRANULARITIES if way in shares}


def _finding(site: str, found: _Outlier) -> Finding:
    kind = found.kind
    return Finding(
        analyzer=NAME,
        claim=(
            f"{kind.what} of {site} is {found.size:.3g} {kind.unit}; quantization puts noise of "
            f"{found.noise:.2%} into the output's energy, and {found.left:.2%} with the remedy"
        ).replace(" of the input of ", " of the input at "),
        cause=kind.cause,
        severity=severity(None, unscored=Severity.WARN),
        sites=(site,),
        roles=(kind.role,),
        effect=found.size,
        unit=kind.unit,
        low=found.size,
        high=found.size,
        n=found.n,
        control=CONTROL,
        remedy=_REMEDIES[found.way],
        reference=REFERENCE,
    )
