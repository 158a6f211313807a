"""The layers that recover most, without measuring all of them.

Layers are taken in the order of their screen values, three times as many as are asked for. All see
the first quarter of the batches, three quarters of them the second, half of them the rest: at each
look those with the lowest score leave. Where there are groups enough, whoever is below the best
``top`` beyond the paired interval of their difference leaves too. The other layers follow in
smaller lots. After each lot the race ends when the ``top``-th exact lower limit exceeds what the
next layer can be expected to reach: its screen value times the 95th percentile of recovery/screen
so far. That bound is a heuristic, as are leaving by rank and looking at an interval several times;
the report says how well the screen agreed with the truth.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from qprobe.analyzers.dequantization.evaluation import Evaluation, Judged
from qprobe.analyzers.dequantization.layers import Variant
from qprobe.inference import Interval, Replicates

#: Shares of the batches after which a race looks who leaves.
SHARES = (0.25, 0.5)
#: Layers that run at first and after each look, in units of ``top``: wide, since the screen orders
#: roughly, and narrowing, since a quarter of the batches orders better than it.
WIDTHS = (3.2, 2.4, 1.6)
#: From fewer groups than this no interval is taken to send somebody home.
FEWEST = 8
#: Draws of an interval that only decides who runs on: five beyond each limit.
DRAWS = 200
#: How far above the screen a layer may be: this quantile of what was seen.
QUANTILE = 0.95


class Stop(StrEnum):
    """Why a race ended."""

    DECIDED = "decided"
    """No layer that is left is expected to be among the best."""
    BUDGET = "budget"
    """The budget of passes was used up before that."""
    ALL = "all"
    """Every layer was measured."""


@dataclass(slots=True, eq=False)
class Race:
    """Who ran, how far, and with what result."""

    evaluation: Evaluation
    top: int
    #: Asked before each lot but the first, with its size, whether it may start.
    affords: Callable[[int], bool]
    #: Recoveries on all batches.
    finished: dict[str, Interval] = field(default_factory=dict)
    #: Recoveries of those who left, on what they had seen; None where that was too little for one.
    left: dict[str, Interval | None] = field(default_factory=dict)
    _seen: dict[str, Judged] = field(default_factory=dict)
    _bases: dict[int, Replicates] = field(default_factory=dict)

    def run(
        self, order: Sequence[str], screen: Mapping[str, float], variants: Mapping[str, Variant]
    ) -> Stop:
        """Race the layers in ``order``; those already ``finished`` are not run again."""
        waiting = [path for path in order if path not in self.finished]
        widths = [math.ceil(self.top * width) for width in WIDTHS[-1 - len(self._looks()) :]]
        lot = widths[0]
        while waiting:
            if self._decided(waiting, screen):
                return Stop.DECIDED
            if self._seen and not self.affords(min(lot, len(waiting))):
                return Stop.BUDGET
            running, waiting = waiting[:lot], waiting[lot:]
            self._heat(running, variants, widths[1:])
            lot = self.top
        return Stop.ALL

    def _heat(
        self, running: list[str], variants: Mapping[str, Variant], widths: Sequence[int]
    ) -> None:
        batches = len(self.evaluation.sizes)
        self._seen |= {path: Judged() for path in running}
        for stop, width in zip((*self._looks(), batches), (*widths, 0), strict=True):
            chosen = {path: variants[path] for path in running}
            self.evaluation.evaluate(chosen, self._seen, stop)
            if stop < batches:
                running = self._remaining(running, stop, width)
        for path in running:
            gain = self.evaluation.replicates(self._seen[path]) - self._base(batches, 0)
            self.finished[path] = gain.interval()
        best = set(self.best())
        for path in [path for path in self._seen if path not in best]:
            del self._seen[path]  # statistics of the best are what the others are compared with

    def best(self) -> list[str]:
        """The finished layers with the largest recoveries."""
        ranked = sorted(self.finished, key=lambda path: -self.finished[path].estimate)
        return ranked[: self.top]

    def _looks(self) -> list[int]:
        """After which batches to look, where there are groups to tell apart."""
        batches = len(self.evaluation.sizes)
        stops = {round(share * batches) for share in SHARES} - {0, batches}
        return [stop for stop in sorted(stops) if self._groups(stop) > 1]

    def _groups(self, stop: int) -> int:
        samples = sum(self.evaluation.sizes[:stop])
        return len(set(self.evaluation.groups[:samples]))

    def _remaining(self, running: list[str], stop: int, width: int) -> list[str]:
        """The best ``width`` on the batches seen by all, less who is surely below the best."""
        scores = {
            path: self.evaluation.score(judged, stop)
            for path, judged in self._seen.items()
            if judged.batches >= stop and path not in self.left
        }
        defined = {path: score for path, score in scores.items() if score is not None}
        if len(defined) < len(scores):
            return running  # too little was seen for a score
        ranked = sorted(defined, key=lambda path: -defined[path])
        losers = {*ranked[width:], *self._surely_below(ranked[:width], stop)} & set(running)
        for path in sorted(losers):
            found = self.evaluation.replicates(self._seen[path], stop, DRAWS)
            gain = found - self._base(stop, DRAWS)
            self.left[path] = gain.interval() if gain.judged else None
        return [path for path in running if path not in losers]

    def _surely_below(self, ranked: list[str], stop: int) -> list[str]:
        """Who is below the ``top``-th beyond the paired interval."""
        if len(ranked) <= self.top or self._groups(stop) < FEWEST:
            return []
        last = self.evaluation.replicates(self._seen[ranked[self.top - 1]], stop, DRAWS)
        apart = {
            path: self.evaluation.replicates(self._seen[path], stop, DRAWS) - last
            for path in ranked[self.top :]
        }
        return [path for path, gain in apart.items() if gain.judged and gain.interval().high < 0.0]

    def _base(self, stop: int, draws: int) -> Replicates:
        key = stop if draws else -stop
        if key not in self._bases:
            self._bases[key] = self.evaluation.replicates(self.evaluation.base, stop, draws)
        return self._bases[key]

    def _decided(self, waiting: Sequence[str], screen: Mapping[str, float]) -> bool:
        best = self.best()
        following = next((path for path in waiting if path in screen), None)
        if len(best) < self.top or following is None or waiting[0] not in screen:
            return False
        left = {path: found for path, found in self.left.items() if found is not None}
        seen = {**left, **self.finished}
        ratios = [seen[p].estimate / screen[p] for p in seen if screen.get(p)]
        if not ratios:
            return False
        expected = screen[following] * max(0.0, float(np.quantile(ratios, QUANTILE)))
        return self.finished[best[-1]].low > expected
