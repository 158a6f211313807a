"""Symmetric integers: one scale for everything that shares it, ties to even, in float32.

``scale = max|x| / largest``, ``code = clamp(round(x · (1/scale)), ±largest)``, value
``code · scale``: the values of PyTorch's own ``fake_quantize_*``. Where all is zero the scale is 1.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from qprobe.errors import InputError
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


def _amax(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The largest along ``axes``, kept; the first one first where others stay between them.

    What is left after it is small, and rows that end in the axis that stays (channels last) are
    reduced many times slower than whole samples.
    """
    if len(axes) in {1, x.dim()}:
        return x.amax(axes, True)
    return x.amax(axes[:1], True).amax(axes[1:], True)


def _amin(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The smallest, in the same way."""
    if len(axes) in {1, x.dim()}:
        return x.amin(axes, True)
    return x.amin(axes[:1], True).amin(axes[1:], True)


def scales(x: Tensor, form: IntFormat, axes: tuple[int, ...]) -> IntScales:
    """The scales of float32 ``x`` shared over ``axes``."""
    absmax = x.abs() if not axes else torch.maximum(_amax(x, axes), -_amin(x, axes))
    small = (absmax > 0) & (absmax < _SMALLEST * form.largest)
    lift = torch.ones_like(absmax).masked_fill_(small, _LIFT)
    lifted = (absmax * lift).div_(torch.full_like(absmax, form.largest))
    lifted = torch.where(absmax == 0, 1.0, lifted)
    return IntScales(lifted / lift, lift, torch.ones_like(lifted).div_(lifted))


def codes(x: Tensor, form: IntFormat, s: IntScales) -> Tensor:
    """Integer codes of float32 ``x``, still as float32."""
    y = (x * s.lift).mul_(s.inverse).round_()
    return y.clamp_(-form.largest, form.largest)


def fake_quantize(x: Tensor, spec: QuantSpec, axis: Axis) -> Tensor:
    """Quantized and dequantized ``x``, float32."""
    form = spec.format
    if not isinstance(form, IntFormat):
        raise TypeError(f"{form} is not an integer format")
    s = scales(x, form, reduced_axes(x, spec.granularity, axis))
    return codes(x, form, s).mul_(s.scale)
