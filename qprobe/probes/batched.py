"""States whose scalars are computed for many of them at once.

A flush reads some fifty numbers from each of a hundred states; one by one these are thousands of
operations on a few numbers each, and take longer than the look itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Self

from torch import Tensor

#: One value a state, and whether it exists: ``[states]`` each.
Values = Mapping[str, tuple[Tensor, Tensor]]


class Batched(ABC):
    """A state that gives its scalars through :meth:`values`, alone or among others."""

    __slots__ = ()

    @property
    def batch(self) -> Hashable:
        """States that agree in this can be stacked."""
        return None

    @classmethod
    @abstractmethod
    def values(cls, states: Sequence[Self]) -> Values:
        """The scalars of states that can be stacked."""

    def scalars(self) -> Mapping[str, Tensor]:
        """What is known of this one."""
        found = self.values([self])
        return {key: value[0] for key, (value, exists) in found.items() if bool(exists[0])}


def scalars_of(states: Sequence[Batched]) -> list[dict[str, float]]:
    """The scalars of each, in their order."""
    groups: dict[Hashable, list[int]] = {}
    for place, state in enumerate(states):
        groups.setdefault((type(state), state.batch), []).append(place)
    found: list[dict[str, float]] = [{} for _ in states]
    for places in groups.values():
        some = [states[place] for place in places]
        for key, (value, exists) in some[0].values(some).items():
            for place, one, known in zip(places, value.tolist(), exists.tolist(), strict=True):
                if known:
                    found[place][key] = float(one)
    return found
