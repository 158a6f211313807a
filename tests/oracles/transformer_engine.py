"""Transformer Engine's own NVFP4 reference, from its wheel, as a live oracle.

How the module is loaded without CUDA is ``benchmarks/lone_import.py``, shared with the benchmark.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

_LOADER = Path(__file__).parents[2] / "benchmarks" / "lone_import.py"


@cache
def reference() -> Any:
    """The module; the test that asks for it is skipped where the wheel is missing."""
    spec = spec_from_file_location("lone_import", _LOADER)
    assert spec is not None
    assert spec.loader is not None
    loader = module_from_spec(spec)
    spec.loader.exec_module(loader)
    try:
        module, _ = loader.te_reference()
    except ImportError as error:
        pytest.skip(f"no live comparison: {error}")
    return module


@dataclass
class Operand:
    """One copy of a quantized matrix, blocks along its last axis."""

    codes: Tensor
    scale: Tensor
    amax: Tensor


@dataclass
class Matrix:
    """What the reference makes of a matrix: itself and its transpose, and its own result."""

    rows: Operand
    columns: Operand
    own: Any


def quantizer(*, two_d: bool = False, rotated: bool = False) -> Any:
    """The reference's quantizer."""
    module = reference()
    return module.NVFP4QuantizerRef(
        dtype=module.reference_utils.Fp4Formats.E2M1,
        quant_tile_shape=(16, 16) if two_d else (1, 16),
        with_rht=rotated,
    )


def quantize(x: Tensor, *, two_d: bool = False, rotated: bool = False) -> Matrix:
    """Quantize a matrix of even sizes (two codes share a byte, and an odd one is lost)."""
    q = quantizer(two_d=two_d, rotated=rotated).quantize(x)
    return Matrix(
        Operand(_unpacked(q.data), q.scale.float()[: x.shape[0]], q.global_amax_row),
        Operand(_unpacked(q.data_t), q.scale_t.float()[: x.shape[1]], q.global_amax_col),
        q,
    )


def _unpacked(pairs: Tensor) -> Tensor:
    return torch.stack([pairs & 15, pairs >> 4], -1).flatten(1)
