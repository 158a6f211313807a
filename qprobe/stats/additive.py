"""States that merge by adding: counts as integers, sums with their remainders."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.stats import compensated


@dataclass(frozen=True, slots=True, kw_only=True)
class Additive(ABC):
    """A partial result of integer counts and :mod:`~qprobe.stats.compensated` sums.

    Counts add exactly, sums to twice the precision of float64, so partial results of micro-batches
    or ranks may be merged in any order. Two states merge on their device without waiting for it.
    """

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are tensors, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def merge(self, other: Self) -> Self:
        """What both saw."""
        merged, others = self.tensors(), other.tensors()
        for name, one in merged.items():
            two = others[name]
            if one.shape != two.shape:
                raise InputError(
                    f"two states of {type(self).__name__} differ in {name}: "
                    f"{tuple(one.shape)} and {tuple(two.shape)}; merge states of one site."
                )
            merged[name] = compensated.add(one, two) if one.is_floating_point() else add(one, two)
        return replace(self, **merged)

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return replace(self, **{name: one.to(device) for name, one in self.tensors().items()})

    @abstractmethod
    def scalars(self) -> Mapping[str, Tensor]:
        """What is known, as tensors without axes; what is missing has no key."""

    def arrays(self) -> Mapping[str, Tensor]:
        """Histograms, if there are any."""
        return {}


def count(flags: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
    """How many are true, int64, over all axes or over ``dim``."""
    return flags.sum(dtype=torch.int64) if dim is None else flags.sum(dim, dtype=torch.int64)


def on_host(counts: Tensor) -> bool:
    """Whether their values can be looked at without waiting."""
    return counts.device.type == "cpu"


def narrow(counts: Tensor, most: int) -> Tensor:
    """Counts that are at most ``most``, as int16, int32 or int64, whichever is enough.

    On a host the largest of them decides; on a device, where looking would wait, ``most`` does.

    >>> narrow(torch.tensor([3, 40_000]), most=50_000).dtype
    torch.int32
    """
    if on_host(counts):
        most = int(counts.max()) if counts.numel() else 0
    for dtype in (torch.int16, torch.int32):
        if most <= torch.iinfo(dtype).max:
            return counts.to(dtype)
    return counts.long()


def add(one: Tensor, two: Tensor) -> Tensor:
    """The sum of counts, in a wider type where it needs one.

    On a device narrow counts become int32, which holds what it can see between two flushes.
    """
    if torch.int64 in (one.dtype, two.dtype):
        return one + two
    return narrow(one.long() + two.long(), torch.iinfo(torch.int32).max)
