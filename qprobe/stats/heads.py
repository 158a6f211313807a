"""States that hold one value a head."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

from torch import Tensor

from qprobe.errors import InputError
from qprobe.stats import compensated
from qprobe.stats.additive import Additive
from qprobe.stats.missing import known, known_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class PerHead(Additive):
    """A state whose fields end in an axis of heads.

    Its scalars are those of all heads taken as one, under plain keys, and those of each head under
    ``head3.key``.
    """

    @abstractmethod
    def seen(self) -> Tensor:
        """What n counts, int64 ``[heads]``."""

    @abstractmethod
    def values(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """A value a head and whether it exists, ``[heads]`` each."""

    def pooled(self) -> Self:
        """All heads as one, which stays as an axis of length 1."""
        whole = {}
        for field in fields(self):
            found: Tensor = getattr(self, field.name)
            if found.is_floating_point():
                sums = found[..., :1]
                for head in range(1, found.shape[-1]):
                    sums = compensated.add(sums, found[..., head : head + 1])
                whole[field.name] = sums
            else:
                whole[field.name] = found.sum(-1, keepdim=True)
        return type(self)(**whole)

    def whole(self) -> dict[str, Tensor]:
        """The scalars of all heads as one."""
        together = self.pooled()
        values = together.values()
        return {"n": together.seen()[0]} | known({k: (v[0], e[0]) for k, (v, e) in values.items()})

    def scalars(self) -> Mapping[str, Tensor]:
        found = self.whole()
        for key, (value, exists) in self.values().items():
            found |= known_heads(key, value, exists)
        return found

    def at(self, heads: Sequence[int], total: int) -> Self:
        """The same, in its place among ``total`` heads; the others saw nothing.

        A probe that looks at other heads each time places what it found before merging.
        """
        if len(set(heads)) != len(heads) or any(not 0 <= head < total for head in heads):
            raise InputError(
                f"sampled heads are different numbers from 0 to {total - 1}, got {list(heads)}."
            )
        if len(heads) != len(self.seen()):
            raise InputError(
                f"the state holds {len(self.seen())} heads and {len(heads)} are named; "
                "name each head that was sampled."
            )
        placed = {}
        for field in fields(self):
            found: Tensor = getattr(self, field.name)
            placed[field.name] = found.new_zeros(*found.shape[:-1], total)
            for position, head in enumerate(heads):
                placed[field.name][..., head] = found[..., position]
        return type(self)(**placed)
