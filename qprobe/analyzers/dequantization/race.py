"""The layers that recover most, without measuring all of them.

Layers are taken in the order of their screen values, 3.6 times as many as are asked for. All see
the first quarter of the batches, fewer the second and the third, nearly three times as many as are
asked for the last: at each look those leave of whom least is expected. Of gains, that is the score
with what was seen put in place of the base's, and for what was not seen yet the screen's share,
where that is a gain, and half its standard error: of a layer that is hard to foretell more is
hoped. Else it is the score of what was seen. Both orders are weighed by what a layer's evaluation
costs: one far back is played again in no time. The others follow in smaller lots. After each lot
the race ends when the ``top``-th exact lower limit exceeds what any layer that waits can be
expected to reach: its screen value times the 95th percentile of recovery/screen so far. That bound
is a heuristic, as is leaving by rank; the report says how well the screen agreed with the truth.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from qprobe.analyzers.dequantization.evaluation import Evaluation, Judged
from qprobe.analyzers.dequantization.layers import Variant
from qprobe.analyzers.dequantization.order import for_the_cost
from qprobe.inference import Interval, Replicates

#: Shares of the batches after which a race looks who leaves.
SHARES = (0.25, 0.5, 0.75)
#: Layers that run at first and after each look, in units of ``top``: wide, since a screen orders
#: roughly, and hardly narrower in the end, since a look still takes one of the best for another.
WIDTHS = (3.6, 3.4, 3.0, 2.8)
#: Standard errors of a screen's gain that are hoped for on top of it.
HOPE = 0.5
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
    #: How many layers are to be named.
    top: int
    #: Asked before each lot but the first, with its size, whether it may start.
    affords: Callable[[int], bool]
    #: Recoveries on all batches.
    finished: dict[str, Interval] = field(default_factory=dict)
    #: Screen values by layer.
    screen: Mapping[str, float] = field(default_factory=dict)
    #: Their standard errors, where they are what the score gains; else none.
    unsure: Mapping[str, float] = field(default_factory=dict)
    #: What those who left were expected to recover.
    left: dict[str, float] = field(default_factory=dict)
    _seen: dict[str, Judged] = field(default_factory=dict)
    _base: Replicates | None = None

    def run(self, order: Sequence[str], variants: Mapping[str, Variant]) -> Stop:
        """Race the layers in ``order``; those already ``finished`` are not run again."""
        waiting = [path for path in order if path not in self.finished]
        waiting = for_the_cost(waiting, self.evaluation.again)
        shares = WIDTHS[-1 - len(self._looks()) :]
        widths = [math.ceil(self.top * share) for share in shares]
        lot = widths[0]
        while waiting:
            if self._decided(waiting):
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
        self._seen |= {path: Judged() for path in running}
        for stop, stay in zip(self._looks(), widths, strict=True):
            self._evaluate(running, variants, stop)
            running = self._remaining(running, stop, stay)
        self._evaluate(running, variants, len(self.evaluation.sizes))
        if self._base is None:
            self._base = self.evaluation.replicates(self.evaluation.base)
        for path in running:
            gain = self.evaluation.replicates(self._seen[path]) - self._base
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
        sizes, groups = self.evaluation.sizes, self.evaluation.groups
        stops = {round(share * len(sizes)) for share in SHARES} - {0, len(sizes)}
        return [stop for stop in sorted(stops) if len(set(groups[: sum(sizes[:stop])])) > 1]

    def _evaluate(self, running: list[str], variants: Mapping[str, Variant], stop: int) -> None:
        self.evaluation.evaluate({path: variants[path] for path in running}, self._seen, stop)

    def _remaining(self, running: list[str], stop: int, stay: int) -> list[str]:
        """The ``stay`` of whom most is expected for the cost, of all who saw as much."""
        seen = [
            path
            for path, judged in self._seen.items()
            if judged.batches >= stop and path not in self.left
        ]
        expected = {path: self._expected(path, stop) for path in seen}
        defined = {path: gain for path, gain in expected.items() if gain is not None}
        if len(defined) < len(expected):
            return running  # too little was seen for a score
        ranked = sorted(defined, key=lambda path: -defined[path])
        losers = set(for_the_cost(ranked, self.evaluation.again)[stay:]) & set(running)
        self.left |= {path: defined[path] for path in sorted(losers)}
        return [path for path in running if path not in losers]

    def _expected(self, path: str, stop: int) -> float | None:
        """The recovery that the first ``stop`` batches speak for; None where it is undefined."""
        judged, evaluation = self._seen[path], self.evaluation
        if path not in self.unsure:
            score, base = (evaluation.score(one, stop) for one in (judged, evaluation.base))
            return None if score is None or base is None else score - base
        everything = len(evaluation.sizes)
        score = evaluation.score_of_all(judged, stop)
        base = evaluation.score(evaluation.base, everything)
        if score is None or base is None:
            return None
        unseen = sum(evaluation.sizes[stop:]) / sum(evaluation.sizes)
        hoped = max(0.0, self.screen[path]) + HOPE * self.unsure[path]
        return score - base + unseen * hoped

    def _decided(self, waiting: Sequence[str]) -> bool:
        best, screen = self.best(), self.screen
        if len(best) < self.top or any(path not in screen for path in waiting):
            return False
        seen = {**self.left, **{path: one.estimate for path, one in self.finished.items()}}
        ratios = [seen[path] / screen[path] for path in seen if screen.get(path, 0.0) > 0]
        if not ratios:
            return False
        largest = max(0.0, *(screen[path] for path in waiting))
        expected = largest * max(0.0, float(np.quantile(ratios, QUANTILE)))
        return self.finished[best[-1]].low > expected
