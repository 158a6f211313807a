"""Integers through the C kernel, which reads a tensor twice and writes it once."""

from functools import lru_cache
from itertools import groupby
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from qprobe import native
from qprobe.quant.fold import memory_order


class Layout(NamedTuple):
    """A tensor as ``[outer, length, inner]`` for the kernel."""

    #: The axes, slowest first, in which it has to be dense.
    order: tuple[int, ...]
    sizes: tuple[int, int, int]
    #: Whether those with the same index in the middle share a scale, and not those that differ in
    #: the middle alone.
    across: bool


def usable(x: Tensor) -> bool:
    """Whether the kernel is there and may be given the address of ``x``.

    Tensors that dispatch for themselves (fake, functional, distributed) have no memory to point to.
    """
    return (
        native.kernels is not None
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


def fake_quantize(x: Tensor, largest: int, shared: tuple[int, ...]) -> Tensor:
    """Quantized and dequantized float32 ``x``; one scale for all along the axes ``shared``."""
    order, sizes, across = layout(tuple(x.shape), x.stride(), shared)
    dense = x.permute(order).contiguous()
    out = torch.empty_like(dense)
    kernels = native.require()
    floats = kernels.integer_scratch(sizes[1], sizes[2], across)
    scratch = torch.empty(floats, dtype=torch.float32, device=x.device)
    kernels.integer_apply(
        *(dense.data_ptr(), out.data_ptr(), *sizes, across, largest, scratch.data_ptr())
    )
    return out.permute([order.index(axis) for axis in range(x.dim())])


@lru_cache(1024)  # a model's layers ask with the same few shapes in every step
def layout(shape: tuple[int, ...], strides: tuple[int, ...], shared: tuple[int, ...]) -> Layout:
    """How a tensor is read: in the order of memory, where shared axes are not scattered over it.

    Channels of images, contiguous and channels last, and two axes with another between them:

    >>> layout((2, 32, 8, 8), (2048, 64, 8, 1), (0, 2, 3))
    Layout(order=(0, 1, 2, 3), sizes=(2, 32, 64), across=True)
    >>> layout((2, 32, 8, 8), (2048, 1, 256, 32), (0, 2, 3))
    Layout(order=(0, 2, 3, 1), sizes=(128, 32, 1), across=True)
    >>> layout((2, 3, 4, 5), (60, 20, 5, 1), (1, 3))
    Layout(order=(0, 2, 1, 3), sizes=(8, 15, 1), across=False)
    """
    order = memory_order(shape, strides) or tuple(range(len(shape)))
    long = [axis for axis in order if shape[axis] > 1]
    runs = [
        (together, prod(shape[axis] for axis in run))
        for together, run in groupby(long, lambda axis: axis in shared)
    ]
    if len(runs) > 3:
        order = (*(a for a in order if a not in shared), *(a for a in order if a in shared))
        parts = (order[: -len(shared)], order[-len(shared) :])
        rest, together = (prod(shape[axis] for axis in part) for part in parts)
        runs = [(False, rest), (True, together)]
    across = len(runs) > 1 and runs[0][0]
    sizes = [size for _, size in runs]
    if not across and (not runs or runs[0][0]):
        sizes = [1, *sizes]
    outer, length, inner = [*sizes, 1, 1, 1][:3]
    return Layout(order, (outer, length, inner), across)
