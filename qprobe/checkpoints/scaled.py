"""Weights that are stored in eight bits beside their scales, read as the numbers they stand for."""

from collections.abc import Mapping

import torch
from torch import Tensor

from qprobe.checkpoints.layouts import Weight
from qprobe.checkpoints.packed import exponents
from qprobe.errors import InputError

#: Outputs and inputs of a block that shares a scale, where scales are neither one nor one a row.
_BLOCK = 128
#: What bitsandbytes divides its eight bits by.
_BITSANDBYTES = 127.0


def decode(weight: Weight, parts: Mapping[str, Tensor]) -> Tensor:
    """``(code − zero) · scale`` as float32, with a scale for all, each output, or each block.

    >>> from qprobe.checkpoints.packed import Layout
    >>> codes = torch.tensor([[1, -2], [3, 4]], dtype=torch.int8)
    >>> weight = Weight(name="fc.weight", shape=(2, 2), layout=Layout.SCALED, parts={})
    >>> decode(weight, {"weight": codes, "weight_scale": torch.tensor([[0.5], [2.0]])}).tolist()
    [[0.5, -1.0], [6.0, 8.0]]
    """
    codes = parts["weight"].float()
    if "SCB" in parts:
        return codes.mul_(_spread(weight, "SCB", parts, codes) / _BITSANDBYTES)
    if "weight_zero_point" in parts:
        codes -= _spread(weight, "weight_zero_point", parts, codes)
    name = "weight_scale" if "weight_scale" in parts else "weight_scale_inv"
    return codes.mul_(_spread(weight, name, parts, codes))


def _spread(weight: Weight, name: str, parts: Mapping[str, Tensor], codes: Tensor) -> Tensor:
    """A part, so that it multiplies the codes."""
    stored, shape = parts[name], tuple(codes.shape)
    values = exponents(stored) if stored.dtype == torch.uint8 else stored.float()
    if values.numel() == 1:
        return values.reshape(())
    if values.numel() == shape[0]:
        return values.reshape(-1, *[1] * (len(shape) - 1))
    sizes = [_block(of, scales) for of, scales in zip(shape, values.shape, strict=False)]
    if len(shape) != 2 or values.dim() != 2 or 0 in sizes:
        raise InputError(
            f"{weight.name!r} {list(shape)} has {name} {list(values.shape)}; one number, one an "
            "output, or one a block was expected."
        )
    for axis, size in enumerate(sizes):
        values = values.repeat_interleave(size, axis).narrow(axis, 0, shape[axis])
    return values


def _block(of: int, scales: int) -> int:
    """Elements along an axis that share one of its scales; 0: no size fits."""
    if -(-of // _BLOCK) == scales:
        return _BLOCK
    return of // scales if scales and of % scales == 0 else 0
