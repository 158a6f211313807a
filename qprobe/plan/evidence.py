"""What is known about each layer: the score it gives back in high precision, and what it costs.

Read from the records of the ``dequantization`` analyzer, role ``""``; of an interval ``key`` the
limits and the number of units behind them are ``key.low``, ``key.high`` and ``key.n``:

==================================  ==============================================================
site, key                           meaning
==================================  ==============================================================
``""``: ``score.high_precision``    score of the model in high precision
``""``: ``score.quantized``         its score under the recipe
``""``: ``gap``                     interval of their difference
layer: ``parameters``               elements of its weights
layer: ``recovery``                 interval of the score gained by this layer alone
layer: ``screen``                   cheap value that ranks the layers
layer: ``cumulative``, step k       interval of the gain of this layer and those of steps below k
==================================  ==============================================================

Only ``parameters`` is there for every layer: a screening run has no recoveries, and one that
stopped early has some.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite

from qprobe.errors import InputError
from qprobe.inference.interval import Interval
from qprobe.records.schema import Record

PROBE = "dequantization"
LEVEL = 0.95

_OF_LAYERS = {"parameters", "recovery", "screen"}
_MODEL = "the whole model"
_AGAIN = "run 'qprobe analyze' again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One quantized layer."""

    path: str
    parameters: int
    #: Score gained when this layer alone is in high precision; None: not evaluated.
    recovery: Interval | None = None
    #: Value by which screening ranks it; None: not screened.
    screen: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """A set of layers that was measured in high precision together."""

    paths: frozenset[str]
    score: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a run says about its layers; ``layers`` in the order in which they were recorded."""

    #: Scores in high precision and under the recipe; None: not measured.
    score_fp: float | None
    score_q: float | None
    #: Interval of ``score_fp − score_q``; None: not measured.
    gap: Interval | None
    layers: tuple[Layer, ...]
    #: Sets that were measured together, from small to large.
    measured: tuple[Prefix, ...] = ()

    @property
    def parameters(self) -> int:
        """Elements of the weights of all quantized layers."""
        return sum(layer.parameters for layer in self.layers)

    def measured_score(self, paths: Iterable[str]) -> Interval | None:
        """The score of exactly this set, where it was measured."""
        wanted = frozenset(paths)
        return next((one.score for one in self.measured if one.paths == wanted), None)


Values = Mapping[str, float]


def evidence(records: Iterable[Record]) -> Evidence:
    """Evidence from records; of a value recorded at more than one step the last one counts."""
    sites: dict[str, dict[str, float]] = defaultdict(dict)
    steps: dict[int, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    ours = (one for one in records if one.probe == PROBE and one.role == "")
    for one in sorted(ours, key=lambda record: record.step):
        if one.key.startswith("cumulative"):
            steps[one.step][one.site][one.key] = one.value
        else:
            sites[one.site][one.key] = one.value
    whole = sites.pop("", {})
    # Kinds of layers and pairs of layers are sites too, without a recovery of their own.
    known = {site: found for site, found in sites.items() if found.keys() & _OF_LAYERS}
    if not known:
        raise InputError(
            f"the run holds no recoveries of layers (no records of {PROBE!r}); make it with "
            "'qprobe analyze' on a model with data."
        )
    score_q = _optional(whole, "score.quantized", _MODEL)
    return Evidence(
        score_fp=_optional(whole, "score.high_precision", _MODEL),
        score_q=score_q,
        gap=_interval(whole, "gap", _MODEL),
        layers=tuple(_layer(path, values) for path, values in known.items()),
        measured=() if score_q is None else tuple(_prefixes(steps, score_q)),
    )


def _layer(path: str, values: Values) -> Layer:
    parameters = _number(values, "parameters", path)
    if parameters < 0 or parameters != int(parameters):
        raise InputError(
            f"{path} is recorded with {parameters:g} parameters, not a count; {_AGAIN}."
        )
    return Layer(
        path=path,
        parameters=int(parameters),
        recovery=_interval(values, "recovery", path),
        screen=_optional(values, "screen", path),
    )


def _prefixes(steps: Mapping[int, Mapping[str, Values]], score_q: float) -> Iterator[Prefix]:
    paths: set[str] = set()
    for step in sorted(steps):
        for path, values in steps[step].items():
            gain = _interval(values, "cumulative", path)
            paths.add(path)
            if gain is not None:
                low, high = score_q + gain.low, score_q + gain.high
                score = replace(gain, estimate=score_q + gain.estimate, low=low, high=high)
                yield Prefix(paths=frozenset(paths), score=score)


def _interval(values: Values, key: str, path: str) -> Interval | None:
    if key not in values:
        return None
    estimate, low, high, n = (
        _number(values, f"{key}{part}", path) for part in ("", ".low", ".high", ".n")
    )
    if not low <= high:
        raise InputError(
            f"{path} is recorded with {key} between {low:g} and {high:g}, which is no interval; "
            f"{_AGAIN}."
        )
    return Interval(estimate=estimate, low=low, high=high, level=LEVEL, n=int(n), method="recorded")


def _optional(values: Values, key: str, whose: str) -> float | None:
    return _number(values, key, whose) if key in values else None


def _number(values: Values, key: str, whose: str) -> float:
    if key not in values:
        raise InputError(f"the run holds no {key!r} of {whose}, which a plan needs; {_AGAIN}.")
    if not isfinite(values[key]):
        raise InputError(f"{key} of {whose} is {values[key]} and not a number; {_AGAIN}.")
    return values[key]
