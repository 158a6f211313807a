"""Which batches are made once, and which again."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from qprobe.analyzers.dequantization.held import Held, size_of


@dataclass
class Case:
    image: Tensor
    names: tuple[str, ...]


class Source:
    """Three batches of 40 bytes; counts how many were made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Iterator[Case]:
        for number in range(3):
            self.made += 1
            yield Case(torch.full((10,), float(number)), ("a", "b"))


def values(held: Held) -> list[float]:
    return [float(batch.image[0]) for batch in held()]


@pytest.mark.parametrize(("memory", "made"), [(120, 3), (119, 9), (0, 9)])
def test_what_fits_is_made_once(memory: int, made: int) -> None:
    source = Source()
    held = Held(source, memory)
    assert [values(held) for _ in range(3)] == [[0.0, 1.0, 2.0]] * 3
    assert source.made == made


def test_a_loop_that_was_left_early_keeps_nothing() -> None:
    source = Source()
    held = Held(source, 1000)
    next(iter(held()))
    assert values(held) == [0.0, 1.0, 2.0]
    assert source.made == 4
    assert values(held) == [0.0, 1.0, 2.0]
    assert source.made == 4


def test_sizes() -> None:
    tensor, array = torch.zeros(3, dtype=torch.float64), np.zeros(2, dtype=np.int16)
    assert size_of(Case(tensor, ("a",))) == 24
    assert size_of({"x": [tensor, array], "y": None, "z": 1.5}) == 28
    assert size_of((tensor, object())) == math.inf
