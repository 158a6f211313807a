"""What every file of weights offers: a table of contents, and one tensor at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A stored tensor, known without reading it."""

    #: ``None`` where PyTorch has no such type.
    dtype: torch.dtype | None
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)


class Source(Protocol):
    """One file of tensors, or several read as one."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What is stored, by name."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Where it is stored."""

    def read(self, name: str) -> Tensor:
        """The tensor as it is stored; it may be a view of the file: do not write to it."""
