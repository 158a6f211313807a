"""How much an analysis may spend, and what that means for each analyzer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from qprobe.analyzers.base import ANALYZERS, Analyzer
from qprobe.analyzers.dequantization import EXHAUSTIVE, QUICK, THOROUGH, Dequantization, Search
from qprobe.analyzers.recipes import Recipes
from qprobe.analyzers.short_runs import ShortRuns
from qprobe.analyzers.weights import Depth as WeightDepth
from qprobe.analyzers.weights import WeightAnalyzer
from qprobe.checkpoints import Checkpoint
from qprobe.errors import InputError
from qprobe.records.schema import Array, Finding, Record


class Depth(StrEnum):
    """How much is measured."""

    QUICK = "quick"
    """Seconds: every layer is screened, none is measured; weights are sampled."""
    NORMAL = "normal"
    """The worst layers are measured."""
    THOROUGH = "thorough"
    """All layers, their pairs, and the curvature of the loss."""
    EXHAUSTIVE = "exhaustive"
    """All layers, and nothing beyond."""


#: Why analyzers are left out that nobody asked for.
NOT_AMONG, SKIPPED = "not among --only", "skipped as asked"
AS_ASKED = frozenset({NOT_AMONG, SKIPPED})
#: What takes minutes and answers no question that everybody has.
SLOW = frozenset({"curvature"})
_SEARCHES = {
    Depth.QUICK: QUICK,
    Depth.NORMAL: Search(),
    Depth.THOROUGH: THOROUGH,
    Depth.EXHAUSTIVE: EXHAUSTIVE,
}


def chosen(
    depth: Depth, only: Sequence[str] = (), skip: Sequence[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """The analyzers to ask, in order, and of each other one why it is not asked."""
    names = ANALYZERS.names()
    for name in (*only, *skip):
        ANALYZERS.get(name)  # an unknown one is named, with the nearest
    both = sorted(set(only) & set(skip))
    if both:
        raise InputError(f"{both[0]} is in --only and in --skip; take it out of one of them.")
    asked, left = [], {}
    for name in names:
        if only and name not in only:
            left[name] = NOT_AMONG
        elif name in skip:
            left[name] = SKIPPED
        elif not only and name in SLOW and depth is not Depth.THOROUGH:
            left[name] = "takes minutes: ask with --thorough or --only " + name
        elif not only and depth is Depth.QUICK and name not in _TUNED:
            left[name] = "left out by --quick"
        else:
            asked.append(name)
    # What screens layers and what needs no model answer first.
    asked.sort(key=lambda name: (name not in _TUNED, name in SLOW, name))
    return asked, left


def made(name: str, depth: Depth, known: Sequence[Record]) -> Analyzer:
    """The analyzer ``name`` for this depth; one that can go on from ``known`` records does."""
    tuned = _TUNED.get(name)
    return ANALYZERS.get(name) if tuned is None else tuned(depth, known)


@dataclass(frozen=True, slots=True)
class _Weights:
    """The analyzer of weights at one depth."""

    depth: WeightDepth
    base: WeightAnalyzer

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def reads(self) -> frozenset[str]:
        return self.base.reads

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        return self.base.analyze(records)

    def measure_checkpoint(self, checkpoint: Checkpoint) -> Iterator[Record | Array]:
        return self.base.measure_checkpoint(checkpoint, self.depth)


def _weights(depth: Depth, _: Sequence[Record]) -> Analyzer:
    how = WeightDepth.QUICK if depth is Depth.QUICK else WeightDepth.FULL
    return _Weights(how, WeightAnalyzer())


def _dequantization(depth: Depth, known: Sequence[Record]) -> Analyzer:
    return Dequantization(_SEARCHES[depth], known=known)


def _recipes(_: Depth, __: Sequence[Record]) -> Analyzer:
    return Recipes()


_TUNED: Mapping[str, Callable[[Depth, Sequence[Record]], Analyzer]] = {
    WeightAnalyzer.name: _weights,
    Dequantization.name: _dequantization,
    Recipes.name: _recipes,
}
#: Analyzers whose records are of use although not all of them are there.
RESUMABLE = frozenset({Dequantization.name, ShortRuns.name})
