"""When a probe looks."""

from dataclasses import dataclass
from typing import Final

from qprobe.errors import InputError


@dataclass(frozen=True, slots=True)
class Every:
    """Every ``interval`` steps, from step ``first`` to step ``last``.

    Steps are counted from 1. With ``layers`` = m only one layer in m is looked at each time, and
    all of them in m looks: the same cost is spread over more steps, at the price of layers that
    cannot be compared at one step.

    >>> [step for step in range(1, 31) if Every(10).due(step)]
    [1, 11, 21]
    >>> [step for step in range(1, 31) if Every(10).due(step, stretch=2)]
    [1, 21]
    >>> [layer for layer in range(6) if Every(10, layers=3).takes(layer, turn=1)]
    [1, 4]
    """

    interval: int = 10
    first: int = 1
    last: int | None = None
    layers: int = 1

    def __post_init__(self) -> None:
        for name in ("interval", "first", "layers"):
            value = getattr(self, name)
            if value < 1:
                raise InputError(f"{name} of a schedule is {value}; give 1 or more.")
        if self.last is not None and self.last < self.first:
            raise InputError(
                f"a schedule from step {self.first} to {self.last} has no step; swap the two."
            )

    def due(self, step: int, stretch: int = 1) -> bool:
        """Whether to look at ``step``, with intervals ``stretch`` times as long."""
        inside = self.first <= step and (self.last is None or step <= self.last)
        return inside and (step - self.first) % (self.interval * stretch) == 0

    def takes(self, layer: int, turn: int) -> bool:
        """Whether the look of this number, counted from 0, takes the layer of this number."""
        return layer % self.layers == turn % self.layers


@dataclass(frozen=True, slots=True)
class OnDemand:
    """Never by itself: only when :meth:`qprobe.Session.observe_next` asks for it."""

    def due(self, step: int, stretch: int = 1) -> bool:
        """Never."""
        return False

    def takes(self, layer: int, turn: int) -> bool:
        """All of them."""
        return True


Schedule = Every | OnDemand
ON_DEMAND: Final = OnDemand()
