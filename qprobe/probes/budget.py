"""Keeps the cost of looking below a share of the training."""

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any, Final, NamedTuple

from qprobe.errors import InputError

#: What looking may cost where nobody has said: small models reach it, large ones stay far below.
ALLOWED: Final = "5%"
#: Says that it may cost what it will.
UNLIMITED: Final = "none"
#: Steps whose median is what a step takes: an evaluation in between counts for nothing.
_STEPS = 32
#: A step counts as at most so many usual ones: time that passes in between earns nothing.
_LONGEST = 2.0
#: Until this step looking may take what so many steps allow, of the fastest one so far.
EARLY: Final = 20
#: How much the last look counts among all looks of one probe.
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


class Asked(NamedTuple):
    """What was asked of a probe: steps between looks (None: on demand), at how many sites."""

    interval: int | None
    sites: int


class Cost(NamedTuple):
    """What one look of a probe took, at so many sites."""

    seconds: float
    sites: int


class Budget:
    """What looking may take, and by how much intervals must be stretched for it to be enough.

    **Account.** Each step earns ``limit`` times its own time, and each look pays what it took, the
    first one too. A look is planned only if there is :attr:`room_s` for what it will take, so
    looking never begins in debt: a look that took more than was thought is paid back first. Until
    step 20 there is room for what 20 steps allow, so that large models are seen whole at once. What
    is saved is never more than one look at everything.

    **Stretch.** What a probe takes at one site is a running mean; its first look, in which caches
    and kernels warm up, counts only until the second. With base step time b, probes that take c_i
    each k_i steps and a stretch s, the share is ``Σ c_i / (k_i s b)``: the stretch is the smallest
    whole number, at least 1, that keeps it within the limit. It is made smaller only with a margin,
    so that noise does not move it to and fro.

    >>> budget = Budget(0.02, {"moments": Asked(interval=10, sites=5)})
    >>> for look in range(3):
    ...     for _ in range(10):
    ...         budget.step(seconds=1.0)
    ...     budget.look({"moments": Cost(0.5, 5)})  # half a second each ten seconds: 5 %
    ...     budget.choose(budget.share(stretch=1))
    >>> budget.stretch, round(budget.share(), 4), round(budget.balance_s, 4)
    (3, 0.0167, -0.9)
    """

    def __init__(self, limit: float | None, asked: Mapping[str, Asked]) -> None:
        self.limit = limit
        self.stretch = 1
        #: What was earned and not spent; below 0 a debt.
        self.balance_s = 0.0
        self._asked = dict(asked)
        self._count = 0
        self._steps: deque[float] = deque(maxlen=_STEPS)
        #: By probe, what it takes at one site.
        self._costs: dict[str, float] = {}
        self._warm: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        """What is known of costs, as plain data."""
        return {
            "stretch": self.stretch,
            "balance_s": self.balance_s,
            "count": self._count,
            "steps": list(self._steps),
            "costs": dict(self._costs),
            "warm": sorted(self._warm),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what is known; the limit stays the own one, and so do intervals without one."""
        self.stretch = 1 if self.limit is None else int(state["stretch"])
        self.balance_s = float(state["balance_s"])
        self._count = int(state["count"])
        self._steps.extend(state["steps"])
        self._costs = dict(state["costs"])
        self._warm = set(state["warm"])

    def step(self, seconds: float) -> None:
        """A step took so long without what was spent on looking."""
        self._count += 1
        self._steps.append(max(seconds, 0.0))
        if self.limit is None:
            return
        self.balance_s += self.limit * min(self._steps[-1], _LONGEST * median(self._steps))
        whole = self.expected({name: asked.sites for name, asked in self._asked.items()})
        if whole is not None:
            self.balance_s = min(self.balance_s, whole)

    @property
    def step_s(self) -> float | None:
        """What a step takes without looks; None before the first."""
        return median(self._steps) if self._steps else None

    @property
    def early(self) -> bool:
        """Whether these are the steps in which what later ones allow may be spent."""
        return self._count < EARLY

    @property
    def room_s(self) -> float:
        """What looking may take now."""
        if self.limit is None:
            return math.inf
        ahead = max(0, EARLY - self._count)
        return self.balance_s + self.limit * ahead * min(self._steps, default=0.0)

    @property
    def steps_in_debt(self) -> int:
        """Steps after which a debt is paid back."""
        if self.limit is None or self.balance_s >= 0 or not self.step_s:
            return 0
        return math.ceil(-self.balance_s / (self.limit * self.step_s) - 1e-9)

    def knows(self, probe: str) -> bool:
        """Whether what this probe takes is known well: from a second look, or a later one."""
        return probe in self._warm

    def expected(self, sites: Mapping[str, int]) -> float | None:
        """What looking at so many sites takes, by probe; None where one has never looked."""
        if not all(name in self._costs for name in sites):
            return None
        return sum(self._costs[name] * count for name, count in sites.items())

    def share(self, stretch: int | None = None) -> float:
        """The share of time that looks take; 0 as long as nothing is known."""
        base = self.step_s
        if not base:
            return 0.0
        each = sum(
            self._costs.get(name, 0.0) * asked.sites / asked.interval
            for name, asked in self._asked.items()
            if asked.interval is not None
        )
        return each / (base * (stretch or self.stretch))

    def look(self, costs: Mapping[str, Cost]) -> None:
        """What one look took, by probe."""
        for name, cost in costs.items():
            if self.limit is not None:
                self.balance_s -= cost.seconds
            one = cost.seconds / max(1, cost.sites)
            if name in self._costs and name not in self._warm:
                self._warm.add(name)
                self._costs[name] = one
            known = self._costs.get(name, one)
            self._costs[name] = known + _WEIGHT * (one - known)

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
