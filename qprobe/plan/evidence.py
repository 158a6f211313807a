"""What is known about each layer: the score it gives back in high precision, and what it costs.

Read from the records of the ``dequantization`` analyzer (role ``""``):

====================================================  =====================================
site, key                                             meaning
====================================================  =====================================
``""``: ``score_fp``, ``score_q``                     score in high precision, under the recipe
``""``: ``gap_low``                                   lower limit of their difference
``""``: ``n``                                         independent units behind the intervals
layer: ``parameters``                                 elements of its weights
layer: ``recovery`` with ``_low`` and ``_high``       score gained by this layer alone
layer: ``screen``                                     cheap value that ranks the layers
layer: ``greedy_rank``, ``greedy_score``, its limits  measured with this and all ranks below
====================================================  =====================================

Only ``score_fp``, ``score_q`` and ``parameters`` are always there: a screening run has no
recoveries, and one that stopped early has some.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite

from qprobe.errors import InputError
from qprobe.inference.interval import Interval
from qprobe.records.schema import Record

PROBE = "dequantization"
LEVEL = 0.95

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

    score_fp: float
    score_q: float
    #: Lower limit of ``score_fp − score_q``; None: not recorded.
    gap_low: float | None
    n: int
    layers: tuple[Layer, ...]
    #: Sets that were measured together, from small to large.
    measured: tuple[Prefix, ...] = ()

    @property
    def parameters(self) -> int:
        """Elements of the weights of all quantized layers."""
        return sum(layer.parameters for layer in self.layers)

    def measured_score(self, paths: Iterable[str]) -> Interval | None:
        """The score of exactly this set, where it was measured; of the last step, if several."""
        wanted = frozenset(paths)
        scores = [prefix.score for prefix in self.measured if prefix.paths == wanted]
        return scores[-1] if scores else None


def evidence(records: Iterable[Record]) -> Evidence:
    """Evidence from records; of a value recorded more than once the last step counts."""
    sites: dict[str, dict[str, float]] = defaultdict(dict)
    for record in sorted(
        (one for one in records if one.probe == PROBE and one.role == ""), key=lambda one: one.step
    ):
        sites[record.site][record.key] = record.value
    whole = sites.pop("", {})
    if not whole or not sites:
        raise InputError(
            f"the run holds no recoveries of layers (no records of {PROBE!r}); make it with "
            "'qprobe analyze' on a model with data."
        )
    n = int(_number(whole, "n", "the whole model")) if "n" in whole else 1
    return Evidence(
        score_fp=_number(whole, "score_fp", "the whole model"),
        score_q=_number(whole, "score_q", "the whole model"),
        gap_low=_number(whole, "gap_low", "the whole model") if "gap_low" in whole else None,
        n=n,
        layers=tuple(_layer(path, values, n) for path, values in sites.items()),
        measured=_prefixes(sites, n),
    )


def _layer(path: str, values: Mapping[str, float], n: int) -> Layer:
    parameters = _number(values, "parameters", path)
    if parameters < 0 or parameters != int(parameters):
        raise InputError(
            f"{path} is recorded with {parameters:g} parameters, not a count; {_AGAIN}."
        )
    return Layer(
        path=path,
        parameters=int(parameters),
        recovery=_interval(values, "recovery", path, n) if "recovery" in values else None,
        screen=_number(values, "screen", path) if "screen" in values else None,
    )


def _prefixes(sites: Mapping[str, Mapping[str, float]], n: int) -> tuple[Prefix, ...]:
    ranked = sorted(
        (_number(values, "greedy_rank", path), path)
        for path, values in sites.items()
        if "greedy_rank" in values
    )
    paths: set[str] = set()
    found = []
    for _, path in ranked:
        paths.add(path)
        score = _interval(sites[path], "greedy_score", path, n)
        found.append(Prefix(paths=frozenset(paths), score=score))
    return tuple(found)


def _interval(values: Mapping[str, float], key: str, path: str, n: int) -> Interval:
    estimate, low, high = (
        _number(values, name, path) for name in (key, f"{key}_low", f"{key}_high")
    )
    if not low <= high:
        raise InputError(
            f"{path} is recorded with {key} between {low:g} and {high:g}, which is no interval; "
            f"{_AGAIN}."
        )
    return Interval(
        estimate=estimate, low=low, high=high, level=LEVEL, n=n, method="paired bootstrap"
    )


def _number(values: Mapping[str, float], key: str, whose: str) -> float:
    if key not in values:
        raise InputError(f"{key} of {whose} is not in the run, and a plan needs it; {_AGAIN}.")
    if not isfinite(values[key]):
        raise InputError(f"{key} of {whose} is {values[key]} and not a number; {_AGAIN}.")
    return values[key]
