"""The layers that recover most, without measuring all of them.

Layers are taken in the order of their screen values, a few at a time. Of each lot all see the first
share of the batches; who is then below the best ``top`` beyond the paired interval of their
difference leaves, and what remains sees the next share. After each lot the race ends when the
``top``-th exact lower limit exceeds what the next layer can be expected to reach: its screen value
times the 95th percentile of recovery/screen so far. That bound is a heuristic, as is looking at an
interval several times; the report says how well the screen agreed with the truth.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from qprobe.analyzers.dequantization.evaluation import Evaluation, Judged
from qprobe.analyzers.dequantization.layers import Variant
from qprobe.inference import Interval, Replicates

#: Shares of the batches after which a race looks who leaves.
SHARES = (0.25, 0.5)
#: Fewer groups than this decide nothing.
FEWEST = 8
#: How many more than `top` start in the first lot.
EXTRA = 3
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
    #: Recoveries of those who left, on what they had seen.
    left: dict[str, Interval] = field(default_factory=dict)
    _seen: dict[str, Judged] = field(default_factory=dict)
    _bases: dict[int, Replicates] = field(default_factory=dict)

    def run(
        self, order: Sequence[str], screen: Mapping[str, float], variants: Mapping[str, Variant]
    ) -> Stop:
        """Race the layers in ``order``; those already ``finished`` are not run again."""
        waiting = [path for path in order if path not in self.finished]
        lot = self.top + EXTRA
        while waiting:
            if self._decided(waiting, screen):
                return Stop.DECIDED
            if self._seen and not self.affords(min(lot, len(waiting))):
                return Stop.BUDGET
            running, waiting = waiting[:lot], waiting[lot:]
            self._heat(running, variants)
            lot = self.top
        return Stop.ALL

    def _heat(self, running: list[str], variants: Mapping[str, Variant]) -> None:
        batches = len(self.evaluation.sizes)
        self._seen |= {path: Judged() for path in running}
        for stop in (*self._looks(batches), batches):
            chosen = {path: variants[path] for path in running}
            self.evaluation.evaluate(chosen, self._seen, stop)
            if stop < batches:
                running = self._remaining(running, stop)
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

    def _looks(self, batches: int) -> list[int]:
        """After which batches to look, where there are groups enough."""
        found = []
        for share in SHARES:
            stop = round(share * batches)
            samples = sum(self.evaluation.sizes[:stop])
            if stop and len(set(self.evaluation.groups[:samples])) >= FEWEST:
                found.append(stop)
        return sorted(set(found) - {batches})

    def _remaining(self, running: list[str], stop: int) -> list[str]:
        """Who is not beyond the interval below the ``top``-th, on the batches seen by all."""
        known = {
            path: self.evaluation.replicates(judged, stop, DRAWS)
            for path, judged in self._seen.items()
            if judged.batches >= stop and path not in self.left
        }
        ranked = sorted(known, key=lambda path: -float(known[path].estimate[0]))
        if len(ranked) <= self.top:
            return running
        last = known[ranked[self.top - 1]]
        losers = {p for p in ranked[self.top :] if (known[p] - last).interval().high < 0.0}
        for path in losers & set(running):
            self.left[path] = (known[path] - self._base(stop, DRAWS)).interval()
        return [path for path in running if path not in losers]

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
        seen = {**self.left, **self.finished}
        ratios = [seen[p].estimate / screen[p] for p in seen if screen.get(p)]
        if not ratios:
            return False
        expected = screen[following] * max(0.0, float(np.quantile(ratios, QUANTILE)))
        return self.finished[best[-1]].low > expected
