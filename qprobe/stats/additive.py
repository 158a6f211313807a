"""States that merge by adding: counts as integers, sums with their remainders."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.stats import compensated


@dataclass(frozen=True, slots=True, kw_only=True)
class Additive(ABC):
    """A partial result whose fields are int64 counts or :mod:`~qprobe.stats.compensated` sums.

    Counts add exactly, sums to twice the precision of float64, so partial results of micro-batches
    or ranks may be merged in any order. Two states merge on their device without waiting for it.
    """

    def merge(self, other: Self) -> Self:
        """What both saw."""
        merged = {}
        for field in fields(self):
            one: Tensor = getattr(self, field.name)
            two: Tensor = getattr(other, field.name)
            if one.shape != two.shape:
                raise InputError(
                    f"two states of {type(self).__name__} differ in {field.name}: "
                    f"{tuple(one.shape)} and {tuple(two.shape)}; merge states of one site."
                )
            merged[field.name] = compensated.add(one, two) if one.is_floating_point() else one + two
        return type(self)(**merged)

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        moved = {field.name: getattr(self, field.name).to(device) for field in fields(self)}
        return type(self)(**moved)

    @abstractmethod
    def scalars(self) -> Mapping[str, Tensor]:
        """What is known, as tensors without axes; what is missing has no key."""

    def arrays(self) -> Mapping[str, Tensor]:
        """Histograms, if there are any."""
        return {}


def count(flags: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
    """How many are true, int64, over all axes or over ``dim``."""
    return flags.sum(dtype=torch.int64) if dim is None else flags.sum(dim, dtype=torch.int64)
