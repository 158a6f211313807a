"""States that hold one value a head."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    ``head3.key``. Heads that were not looked at take no memory.
    """

    #: Which heads the last axis holds, ascending; empty for all from 0 on.
    heads: tuple[int, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """The same, with all of them named."""
        return self.heads or tuple(range(len(self.seen())))

    def merge(self, other: Self) -> Self:
        """What both saw; either may lack heads of the other."""
        if self.heads == other.heads:
            return Additive.merge(self, other)  # slots make a new class, which super() misses
        every = tuple(sorted({*self.numbers, *other.numbers}))
        return Additive.merge(self._among(every), other._among(every))

    def _among(self, heads: tuple[int, ...]) -> Self:
        """The same with zeros for more heads."""
        placed = {}
        for name, found in self.tensors().items():
            placed[name] = found.new_zeros(*found.shape[:-1], len(heads))
            for place, head in enumerate(self.numbers):
                placed[name].select(-1, heads.index(head)).copy_(found.select(-1, place))
        return replace(self, heads=heads, **placed)

    @abstractmethod
    def seen(self) -> Tensor:
        """What n counts, int64 ``[heads]``."""

    @abstractmethod
    def values(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """A value a head and whether it exists, ``[heads]`` each."""

    def pooled(self) -> Self:
        """All heads as one, which stays as an axis of length 1."""
        whole = {}
        for name, found in self.tensors().items():
            if found.is_floating_point():
                sums = found[..., :1]
                for head in range(1, found.shape[-1]):
                    sums = compensated.add(sums, found[..., head : head + 1])
                whole[name] = sums
            else:
                whole[name] = found.sum(-1, keepdim=True)
        return replace(self, heads=(), **whole)

    def whole(self) -> dict[str, Tensor]:
        """The scalars of all heads as one."""
        together = self.pooled()
        values = together.values()
        return {"n": together.seen()[0]} | known({k: (v[0], e[0]) for k, (v, e) in values.items()})

    def scalars(self) -> Mapping[str, Tensor]:
        found = self.whole()
        for key, (value, exists) in self.values().items():
            found |= known_heads(key, value, exists, self.numbers)
        return found

    def at(self, heads: Sequence[int], total: int) -> Self:
        """The same, of these among ``total`` heads; the others saw nothing.

        A probe that looks at other heads each time says which ones before merging.
        """
        if len(set(heads)) != len(heads) or any(not 0 <= head < total for head in heads):
            raise InputError(
                f"sampled heads are different numbers from 0 to {total - 1}, got {list(heads)}."
            )
        held = next(iter(self.tensors().values())).shape[-1]
        if len(heads) != held:
            raise InputError(
                f"the state holds {held} heads and {len(heads)} are named; "
                "name each head that was sampled."
            )
        ascending = tuple(sorted(heads))
        order = [heads.index(head) for head in ascending]
        if ascending == tuple(heads):
            return replace(self, heads=ascending)
        turned = {name: found[..., order] for name, found in self.tensors().items()}
        return replace(self, heads=ascending, **turned)
