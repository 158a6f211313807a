"""Checkpoints made of the tensors that a test plants defects in."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import Tensor

from qprobe import checkpoints
from qprobe.checkpoints import Checkpoint

Opened = Callable[[Mapping[str, Tensor]], Checkpoint]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """A checkpoint of these tensors."""

    def opened_(tensors: Mapping[str, Tensor]) -> Checkpoint:
        plain = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        save_file(plain, tmp_path / "m.safetensors")
        return checkpoints.open(tmp_path / "m.safetensors")

    return opened_
