"""What one look in ten steps adds to ten steps, end to end, with an interval.

Two twins of one training take the same steps from the same start: one is plain and one is watched.
They take turns in one process, plain, watched and looked at, watched and not looked at, plain
(ABBA, so that a slow drift of the machine hits both alike), and each four steps give one difference
of CPU time: the look, its flush, and what it leaves to the step after it. Half of the units are
taken with the roles of the twins exchanged, because memory lies better for one of two models.

Nine of ten steps are not looked at; that part is too small to be seen beside a large model's step
and does not depend on its size, so it is measured on the same layers with hardly any work to do.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import thread_time
from typing import Any

import numpy as np
from scipy.stats import trim_mean

#: Of the differences, which share of either end is left out of the middle.
TRIMMED = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """One training, and the same step under a session, with or without a look."""

    plain: Callable[[], None]
    watched: Callable[[], None]
    look: Callable[[], None]


@dataclass(slots=True)
class Collections:
    """What Python's garbage collector did: seconds of each run of its oldest generation."""

    seconds: list[float] = field(default_factory=list)
    _began: float = 0.0

    def __call__(self, phase: str, info: dict[str, Any]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._began = thread_time()
        else:
            self.seconds.append(thread_time() - self._began)


@contextmanager
def collections() -> Iterator[Collections]:
    """Times the garbage collector's full runs."""
    seen = Collections()
    gc.callbacks.append(seen)
    try:
        yield seen
    finally:
        gc.callbacks.remove(seen)


@dataclass(slots=True, kw_only=True)
class Unit:
    """Four steps: seconds of each, and of the collector's full runs in the watched ones."""

    plain: float
    look: float
    after: float
    collecting: float

    @property
    def difference(self) -> float:
        return self.look + self.after - 2.0 * self.plain


def unit(plain: Twin, watched: Twin) -> Unit:
    """Plain, look, not due, plain."""
    first = _timed(plain.plain)
    with collections() as seen:
        look, after = _timed(watched.look), _timed(watched.watched)
    last = _timed(plain.plain)
    return Unit(plain=(first + last) / 2, look=look, after=after, collecting=sum(seen.seconds))


def _timed(step: Callable[[], None]) -> float:
    began = thread_time()
    step()
    return thread_time() - began


def idle(plain: Twin, watched: Twin, units: int) -> float:
    """Seconds that a step which is not due takes longer, median of paired differences."""
    found = []
    for _ in range(units):
        steps = (plain.plain, watched.watched, watched.watched, plain.plain)
        first, one, two, last = map(_timed, steps)
        found.append((one + two - first - last) / 2)
    return float(np.median(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class EndToEnd:
    """Percent that one look in ten steps adds to them."""

    middle: float
    low: float
    high: float
    mean: float
    #: Units, and in how many of them the garbage collector looked through everything.
    units: int
    collected: int
    #: Percent that is the collector's, of the mean.
    collecting: float
    #: Percent that nine steps add at which nothing is due.
    idle: float


def end_to_end(units: Sequence[Unit], idle_s: float, level: float = 0.95) -> EndToEnd:
    """From differences to percent; the interval is a bootstrap over units, of the trimmed mean.

    With D the difference of a unit, which holds one look and one step beside it, I what a step that
    is not due takes longer and P a plain step, ten steps take ``(D + 8·I) / 10·P`` longer.

    >>> four = [Unit(plain=1.0, look=1.1, after=1.0, collecting=0.0)] * 5
    >>> found = end_to_end(four, idle_s=0.0)
    >>> round(found.middle, 3), round(found.low, 3), round(found.high, 3)
    (1.0, 1.0, 1.0)
    """
    ten = 10.0 * float(np.median([one.plain for one in units]))
    rest = 8.0 * idle_s
    differences = np.array([one.difference for one in units]) + rest
    generator = np.random.default_rng(0)
    drawn = generator.choice(differences, (2000, len(units)))
    low, high = np.quantile(trim_mean(drawn, TRIMMED, axis=1), [(1 - level) / 2, (1 + level) / 2])
    collecting = [one.collecting for one in units]
    return EndToEnd(
        middle=100.0 * float(trim_mean(differences, TRIMMED)) / ten,
        low=100.0 * float(low) / ten,
        high=100.0 * float(high) / ten,
        mean=100.0 * float(differences.mean()) / ten,
        units=len(units),
        collected=sum(1 for seconds in collecting if seconds > 0),
        collecting=100.0 * float(np.mean(collecting)) / ten,
        idle=100.0 * 9.0 * idle_s / ten,
    )
