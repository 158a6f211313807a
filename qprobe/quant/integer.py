"""Symmetric integers: one scale for everything that shares it, ties to even, in float32.

``scale = max|x| / largest``, ``code = clamp(round(x · (1/scale)), ±largest)``, value
``code · scale``: the values of PyTorch's own ``fake_quantize_*``. Where all is zero the scale is 1.

:func:`fake_quantize` has two implementations with the same bits: a C kernel
(:mod:`qprobe.quant.integer_native`) and PyTorch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.quant import integer_native
from qprobe.quant.fold import Axis, resolve
from qprobe.quant.formats import IntFormat
from qprobe.quant.spec import Granularity, QuantSpec

#: Below this a scale is subnormal, and its reciprocal may be infinite.
_SMALLEST = torch.finfo(torch.float32).tiny
_LIFT = 2.0**64


class IntScales(NamedTuple):
    """Scales that broadcast against the tensor; ``lift`` is 1 but where the scale is subnormal."""

    scale: Tensor
    lift: Tensor
    inverse: Tensor


def reduced_axes(x: Tensor, granularity: Granularity, axis: Axis) -> tuple[int, ...]:
    """The axes over which one scale is shared.

    ``CHANNEL`` keeps ``axis`` and shares over all others; ``TOKEN`` and ``VOXEL`` share along
    ``axis``; ``TENSOR`` shares over everything.
    """
    if granularity.depends_on_layer:
        raise InputError(
            f"{granularity} is chosen layer by layer in a recipe; quantize a single tensor by "
            "tensor, channel, token or voxel."
        )
    everything = tuple(range(x.dim()))
    if granularity is Granularity.TENSOR:
        return everything
    axes = resolve(x, axis)
    if granularity is Granularity.CHANNEL:
        return tuple(a for a in everything if a not in axes)
    return axes


def _absmax(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The largest magnitude along ``axes``, which are kept with size 1."""
    if not axes:
        return x.abs()
    high = low = x
    if 1 < len(axes) < x.dim():
        high, low = _over_first(x, axes)
    return torch.maximum(high.amax(axes, True), -low.amin(axes, True))


def _over_first(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The largest and smallest along the slowest axis in memory, where that is one of ``axes``.

    What is left is small. Taken together, axes with one that stays between or behind them (channels
    last) are reduced number by number, 7 times slower.
    """
    strides = x.stride()
    order = sorted(range(x.dim()), key=lambda axis: -strides[axis])
    dense = x.permute(order)
    if order[0] not in axes or not dense.is_contiguous():
        return x, x
    rows, back = dense.flatten(1), [order.index(axis) for axis in range(x.dim())]
    high, low = (
        row.view(1, *dense.shape[1:]).permute(back) for row in (rows.amax(0), rows.amin(0))
    )
    return high, low


def scales(x: Tensor, form: IntFormat, axes: tuple[int, ...]) -> IntScales:
    """The scales of float32 ``x`` shared over ``axes``."""
    return scales_of(_absmax(x, axes), form)


def scales_of(absmax: Tensor, form: IntFormat) -> IntScales:
    """The scales of what has these largest magnitudes, float32."""
    small = (absmax > 0) & (absmax < _SMALLEST * form.largest)
    lift = torch.ones_like(absmax).masked_fill_(small, _LIFT)
    lifted = (absmax * lift).div_(torch.full_like(absmax, form.largest))
    lifted = torch.where(absmax == 0, 1.0, lifted)
    return IntScales(lifted / lift, lift, torch.ones_like(lifted).div_(lifted))


def plain_scales_of(absmax: Tensor, form: IntFormat) -> IntScales | None:
    """The same in fewer operations; None where all is zero somewhere, or a scale is subnormal."""
    if not float(absmax.amin()) >= _SMALLEST * form.largest:
        return None
    scale = absmax / torch.full_like(absmax, form.largest)
    one = torch.ones_like(scale)
    return IntScales(scale, one, one / scale)


def codes(x: Tensor, form: IntFormat, s: IntScales) -> Tensor:
    """Integer codes of float32 ``x``, still as float32."""
    y = (x * s.lift).mul_(s.inverse).round_()
    return y.clamp_(-form.largest, form.largest)


def fake_quantize(x: Tensor, spec: QuantSpec, axis: Axis) -> Tensor:
    """Quantized and dequantized ``x``, float32."""
    form = spec.format
    if not isinstance(form, IntFormat):
        raise TypeError(f"{form} is not an integer format")
    axes = reduced_axes(x, spec.granularity, axis)
    if integer_native.usable(x):
        return integer_native.fake_quantize(x, form.largest, axes)
    s = scales(x, form, axes)
    return codes(x, form, s).mul_(s.scale)
