"""Which granularity does each layer need, and are there outliers that make it need one?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

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

    Limits stand above what healthy models show (docs/concepts/diagnosis.md has the numbers): of
    inputs the largest channel was up to 15.6 times the median one and the largest token 4.3 times,
    of weights 2.2 times. ``gain`` is by how much the best remedy cuts the noise of the layer's
    output; an outlier that no granularity minds is no finding (healthy layers above the limit:
    1.5).
    """

    cause: Cause
    role: Role
    over: str
    under: str
    #: The statistic is an energy, of which the square root is told.
    energy: bool
    limit: float
    gain: float
    #: From this size on, where no healthy layer is, any gain will do.
    sure: float
    unit: str
    what: str


KINDS = (
    Kind(
        cause=Cause.SPATIAL_OUTLIER,
        role=Role.INPUT,
        over="token_mean_square_max",
        under="token_mean_square_median",
        energy=True,
        limit=8.0,
        gain=0.0,
        sure=8.0,
        unit=TOKENS,
        what="one token or voxel of the input",
    ),
    Kind(
        cause=Cause.CHANNEL_OUTLIER,
        role=Role.INPUT,
        over="channel_std_max",
        under="channel_std_median",
        energy=False,
        limit=8.0,
        gain=1.7,
        sure=20.0,
        unit=CHANNELS,
        what="one channel of the input",
    ),
    Kind(
        cause=Cause.CHANNEL_OUTLIER,
        role=Role.WEIGHT,
        over="channel_std_max",
        under="channel_std_median",
        energy=False,
        limit=4.0,
        gain=1.1,
        sure=4.0,
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
#: The least gain that is one.
_SOME = 1.1


class Outliers:
    """Reads moments of inputs and weights, and what remedies do to the noise of outputs.

    Where the largest channel or token of an operand is out of line, and finer scales would cut the
    noise of the layer's output, it says which and by how much.
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
            for found in _found(site, moments, values)
        ]


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
        gain = min(kind.gain, _SOME) if size >= kind.sure else kind.gain
        if shares[INTENDED] < gain * min(_granular(shares).values(), default=0.0):
            continue
        way, left = _remedy(shares, kind.role)
        yield _Outlier(kind=kind, size=size, n=int(n), noise=shares[INTENDED], way=way, left=left)


def _size(site: str, moments: Measured, kind: Kind) -> float | None:
    over = moments.value(site, kind.role, kind.over)
    under = moments.value(site, kind.role, kind.under)
    if over is None or not under:
        return None
    ratio = over / under
    return float(ratio**0.5) if kind.energy else ratio


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
