"""Keeps the cost of looking below a share of the training."""

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any, Final

from qprobe.errors import InputError

#: What looking may cost where nobody has said: small models reach it, large ones stay far below.
ALLOWED: Final = "5%"
#: Says that it may cost what it will.
UNLIMITED: Final = "none"
#: Steps whose median is what a step takes: an evaluation in between counts for nothing.
_STEPS = 32
#: How much the last look counts among all looks of one kind.
_WEIGHT = 0.5
#: A shorter interval is taken only if it would stay this far below the limit.
_MARGIN = 0.75


def share(budget: str | float | None) -> float | None:
    """A budget as a share of the rest of the step.

    >>> share("2%"), share(0.02), share(None)
    (0.02, 0.02, None)
    """
    if budget is None:
        return None
    try:
        if isinstance(budget, str):
            found = float(budget.removesuffix("%")) / (100.0 if budget.endswith("%") else 1.0)
        else:
            found = float(budget)
    except ValueError:
        found = math.nan
    if not 0.0 < found < 1.0:
        raise InputError(f"a budget of {budget!r} is no share of a step; write it as '2%' or 0.02.")
    return found


class Budget:
    """By how much intervals must be stretched for looks to cost no more than ``limit``.

    What a look costs is a running mean for each asked interval, apart from the first look, in which
    caches and kernels warm up. With base step time b, looks that cost c_i every k_i steps and a
    stretch s, the share is ``Σ c_i / (k_i s b)``: the stretch is the smallest whole number, at
    least 1, that keeps it within the limit. It is made smaller only with a margin, so that noise
    does not move it to and fro.

    >>> budget = Budget(0.02)
    >>> for look in range(3):
    ...     for _ in range(10):
    ...         budget.step(seconds=1.0)
    ...     budget.look({10: 0.5})  # half a second each ten seconds: 5 %
    ...     budget.choose(budget.share(stretch=1))
    ...     budget.choose(budget.share(stretch=1))
    >>> budget.stretch, round(budget.share(), 4)
    (3, 0.0167)
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.stretch = 1
        self._steps: deque[float] = deque(maxlen=_STEPS)
        self._costs: dict[int, float] = {}
        self._warm: set[int] = set()

    def state_dict(self) -> dict[str, Any]:
        """What is known of costs, as plain data."""
        return {
            "stretch": self.stretch,
            "steps": list(self._steps),
            "costs": dict(self._costs),
            "warm": sorted(self._warm),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what is known; the limit stays the own one, and so do intervals without one."""
        self.stretch = 1 if self.limit is None else int(state["stretch"])
        self._steps.extend(state["steps"])
        self._costs = dict(state["costs"])
        self._warm = set(state["warm"])

    def step(self, seconds: float) -> None:
        """A step took so long without what was spent on looking."""
        self._steps.append(max(seconds, 0.0))

    @property
    def step_s(self) -> float | None:
        """What a step takes without looks; None before the first."""
        return median(self._steps) if self._steps else None

    def share(self, stretch: int | None = None) -> float:
        """The share of time that looks take; 0 as long as nothing is known."""
        base = self.step_s
        if not base:
            return 0.0
        asked = sum(cost / interval for interval, cost in self._costs.items())
        return asked / (base * (stretch or self.stretch))

    def look(self, seconds: Mapping[int, float]) -> None:
        """Looks took so long, by the interval that was asked for."""
        for interval, cost in seconds.items():
            if interval not in self._warm:
                self._warm.add(interval)
                continue
            known = self._costs.get(interval, cost)
            self._costs[interval] = known + _WEIGHT * (cost - known)

    def choose(self, unstretched: float) -> None:
        """Take the stretch that keeps looks within the limit, which cost so much without one.

        Processes that train together choose by the same number, the largest that one of them has.
        """
        if self.limit is None:
            return
        needed = max(1, math.ceil(unstretched / self.limit - 1e-9))
        if needed > self.stretch:
            self.stretch = needed
        elif unstretched / self.limit <= _MARGIN * self.stretch:
            self.stretch = max(1, math.ceil(unstretched / (self.limit * _MARGIN) - 1e-9))
