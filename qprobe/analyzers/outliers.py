"""Which granularity does each layer need, and are there outliers that make it need one?

Two questions of one layer. An *outlier* is a channel, token or voxel that is out of line: evidence
by itself. A *range* is what one scale has to span: where finer scales would be worth a bit, that is
no defect by itself, since the model may not mind, but it is the cause where the layer costs score.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qprobe.analyzers.measured import Measured
from qprobe.analyzers.noise_by_layer import NoiseByLayer
from qprobe.probes.outlying import CHANNEL, TOKEN, WEIGHT
from qprobe.probes.output_error import (
    AS_IT_IS,
    INTENDED,
    ROTATED,
    SMOOTHED,
    W_CHANNEL,
    W_HIGH,
    WITHOUT_CHANNELS,
    WITHOUT_TOKENS,
    X_HIGH,
)
from qprobe.records.schema import Cause, Finding, Record, Role, Severity, severity

NAME = "outliers"
MOMENTS, ERROR = "moments", "output_error"
CONTROL = "the same layer, input and weight in high precision"
REFERENCE = "docs/concepts/diagnosis.md, outliers; Xiao et al. 2023, SmoothQuant"
CHANNELS, TOKENS = "times the median channel", "times the median token"
OUTPUTS = "times the median output channel"
#: From where on an output channel of a weight is out of line; in healthy models: at most 4.2.
OUTPUT = 8.0
#: A row that is so many times larger is in every input channel of the weight, and makes the largest
#: of its elements look like an input channel that is out of line: normal ones by five times.
_EXPLAINS = 4.0
_ENDS = ("max", "median")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of outlier: where it is looked for, and from when it is told.

    Limits stand above what healthy models show (docs/concepts/diagnosis.md has the numbers).
    """

    cause: Cause
    role: Role
    statistics: tuple[str, ...]
    #: The statistic is an energy, of which the square root is told.
    energy: bool
    limit: float
    unit: str
    what: str
    #: The layer without it, as ``output_error`` names that.
    without: str


KINDS = (
    Kind(
        cause=Cause.SPATIAL_OUTLIER,
        role=Role.INPUT,
        statistics=("token_mean_square",),
        energy=True,
        limit=TOKEN,
        unit=TOKENS,
        what="one token or voxel of the input",
        without=WITHOUT_TOKENS,
    ),
    Kind(
        cause=Cause.CHANNEL_OUTLIER,
        role=Role.INPUT,
        statistics=("channel_std", "channel_absmax"),
        energy=False,
        limit=CHANNEL,
        unit=CHANNELS,
        what="one channel of the input",
        without=WITHOUT_CHANNELS,
    ),
    Kind(
        cause=Cause.CHANNEL_OUTLIER,
        role=Role.WEIGHT,
        statistics=("channel_std", "channel_absmax"),
        energy=False,
        limit=WEIGHT,
        unit=CHANNELS,
        what="the weights of one input channel",
        without=WITHOUT_CHANNELS,
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
#: Of one scale for a whole input, by what finer scales explain the noise: the first that is enough.
_FINER = {
    "x_channel": Cause.CHANNEL_OUTLIER,
    "x_token": Cause.SPATIAL_OUTLIER,
    "x_voxel": Cause.SPATIAL_OUTLIER,
}
#: A step half as large is a bit more, and leaves a quarter of the noise.
A_BIT = 4.0
#: What a layer adds to the noise that its recipe intends is not explained by scales.
_OWN_NOISE = 1.5
RANGE = "times the noise with finer scales"
_GRANULARITIES = tuple(way for way in _REMEDIES if way not in (X_HIGH, W_HIGH))
#: A granularity is recommended from this cut of the noise; else the operand stays as it was.
_WORTHWHILE = 1.5


class Outliers:
    """Reads moments of inputs and weights, and what remedies do to the noise of outputs.

    Where the largest channel or token of an operand is out of line, and the layer would do better
    without it by what shows in the model, it says which and by how much.
    """

    name = NAME
    reads = frozenset({MOMENTS, ERROR})

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        """One finding a layer and kind of outlier."""
        moments, errors = Measured(records, MOMENTS), Measured(records, ERROR)
        noise = NoiseByLayer({place.site: errors.at(place) for place in errors.places()})
        found: list[Finding] = []
        for site in noise.sites:
            outliers = [_finding(site, one) for one in _found(site, moments, noise)]
            outliers += _output(site, moments, noise)
            odd = any(Role.INPUT in one.roles for one in outliers)
            found += [*outliers, *(() if odd else _range(site, moments, noise))]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outlier:
    kind: Kind
    size: float
    n: int
    noise: float
    #: The noise that the layer would have without the outlier.
    without: float
    way: str
    #: The noise that the remedy leaves.
    left: float


def _found(site: str, moments: Measured, noise: NoiseByLayer) -> Iterator[_Outlier]:
    shares = noise.shares(site)
    sizes = {kind: _size(site, moments, kind) for kind in KINDS}
    told: set[Role] = set()
    # One token that holds all the energy is in some channel too, and the other way round: the
    # larger one is the outlier.
    for kind in sorted(KINDS, key=lambda kind: -(sizes[kind] or 0.0)):
        size, n = sizes[kind], moments.value(site, kind.role, "n")
        if size is None or n is None or size < kind.limit or kind.role in told:
            continue
        if kind.role is Role.WEIGHT and _output_size(site, moments) >= _EXPLAINS * size:
            continue  # the largest of one row, which all input channels share
        measured = {INTENDED, kind.without} <= shares.keys()
        if not measured or not noise.shows(site, kind.without):
            continue
        told.add(kind.role)
        way, left = _remedy(shares, kind.role)
        yield _Outlier(
            kind=kind, size=size, n=int(n), noise=shares[INTENDED], without=shares[kind.without],
            way=way, left=left,
        )  # fmt: skip


def _output_size(site: str, moments: Measured) -> float:
    """How many times the root mean square of a weight's largest output is the median one."""
    over, under = (
        moments.value(site, Role.WEIGHT, f"token_mean_square_{which}") for which in _ENDS
    )
    return (over / under) ** 0.5 if over and under else 1.0


def _output(site: str, moments: Measured, noises: NoiseByLayer) -> Iterator[Finding]:
    """One output channel sets the only scale of the weight, and the others become zero.

    Where nearly all the energy of the output is that channel's, noise beside energy says nothing of
    the others; what the loss feels does.
    """
    size, n = _output_size(site, moments), moments.value(site, Role.WEIGHT, "n")
    gone = noises.gone(site, W_CHANNEL)
    if size < OUTPUT or n is None or gone is None or not noises.shows(site, W_CHANNEL):
        return
    yield Finding(
        analyzer=NAME,
        claim=(
            f"the weights of one output channel of {site} are {size:.3g} {OUTPUTS} and set the "
            f"scale of all: of what quantization there does to the loss, {gone:.0%} would be gone "
            "with a scale for each output channel"
        ),
        cause=Cause.CHANNEL_OUTLIER,
        severity=severity(None, unscored=Severity.WARN),
        sites=(site,),
        roles=(Role.WEIGHT,),
        effect=size,
        unit=OUTPUTS,
        low=size,
        high=size,
        n=int(n),
        control=CONTROL,
        remedy="give its weight one scale an output channel: granularity channel",
        reference=REFERENCE,
    )


def _range(site: str, moments: Measured, noises: NoiseByLayer) -> Iterator[Finding]:
    """Finer scales of the input would be worth a bit and more: few values set the scale of all."""
    shares = noises.shares(site)
    largest, usual = (moments.value(site, Role.INPUT, key) for key in ("absmax", "std"))
    n = moments.value(site, Role.INPUT, "n")
    needed = {INTENDED, AS_IT_IS, X_HIGH} <= shares.keys()
    if not needed or largest is None or not usual or n is None:
        return
    noise = shares[INTENDED]
    if not noise or shares[AS_IT_IS] > _OWN_NOISE * noise or shares[X_HIGH] * A_BIT > noise:
        return
    way = next((way for way in _FINER if shares.get(way, noise) * A_BIT <= noise), None)
    if way is None or not shares[way] or not noises.shows(site, way):
        return
    cut = noise / shares[way]
    yield Finding(
        analyzer=NAME,
        claim=(
            f"few values set the scale of the whole input at {site}: the largest is "
            f"{largest / usual:.3g} standard deviations{_apart(site, moments)}; quantization puts "
            f"noise of {noise:.2%} into the output's energy, {shares[way]:.2%} with a scale a "
            f"{way.removeprefix('x_')}, {shares[X_HIGH]:.2%} with the input in high precision"
        ),
        cause=_FINER[way],
        severity=Severity.INFO,
        sites=(site,),
        roles=(Role.INPUT,),
        effect=cut,
        unit=RANGE,
        low=cut,
        high=cut,
        n=int(n),
        control=CONTROL,
        remedy=_REMEDIES[way],
        reference="docs/concepts/diagnosis.md, ranges",
    )


def _apart(site: str, moments: Measured) -> str:
    """How far the largest channel is above the median one, in words."""
    most, median = (
        moments.value(site, Role.INPUT, f"channel_absmax_{which}") for which in ("max", "median")
    )
    return "" if most is None or not median else f", {most / median:.3g} times the median channel's"


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
            f"{found.noise:.2%} into the output's energy, {found.without:.2%} without it, "
            f"{found.left:.2%} with the remedy"
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
