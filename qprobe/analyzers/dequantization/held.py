"""Batches that are made once: a search runs the same ones again and again."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor


class Held:
    """Batches that are kept once they were made, unless they take more than ``memory`` bytes."""

    def __init__(self, batches: Callable[[], Iterable[Any]], memory: int) -> None:
        self._make = batches
        self._memory = memory
        self._all: list[Any] | None = None

    def __call__(self) -> Iterator[Any]:
        if self._all is not None:
            yield from self._all
            return
        held: list[Any] | None = []
        left = float(self._memory)
        for batch in self._make():
            left -= size_of(batch)
            if left < 0:
                held = None
            if held is not None:
                held.append(batch)
            yield batch
        self._all = held


def size_of(batch: Any) -> float:
    """Bytes of the tensors and arrays in a batch; infinite where something unknown is in it.

    >>> size_of((np.zeros(3), {"name": "a"}, None)), size_of(object())
    (24.0, inf)
    """
    if isinstance(batch, Tensor | np.ndarray):
        return float(batch.nbytes)
    if isinstance(batch, str | bytes | int | float | None):
        return 0.0
    parts: Iterable[Any]
    if isinstance(batch, Mapping):
        parts = batch.values()
    elif isinstance(batch, list | tuple):
        parts = batch
    elif is_dataclass(batch):
        parts = (getattr(batch, field.name) for field in fields(batch))
    else:
        return math.inf
    return sum(map(size_of, parts))
