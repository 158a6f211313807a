"""Rounding to a grid, in float32, with the tie rule in the name.

The grids have power-of-two spacing, so a number is divided by its spacing, rounded to an integer
and multiplied again, all exact but for the rounding itself. No table is needed.
"""

from enum import StrEnum

import torch
from torch import Tensor

_EXPONENT = 0x7F800000
#: Times a power of two: where float32 has steps of half of it.
_ROUNDING = 1.5 * 2**22


class Rounding(StrEnum):
    """How a number between two grid points finds one."""

    NEAREST_EVEN = "nearest-even"
    """The nearer one; from the middle, the one whose code is even."""
    STOCHASTIC = "stochastic"
    """Up with probability floor(256 f)/256, f the position in the gap: eight random bits each."""


def power_below(x: Tensor) -> Tensor:
    """The largest power of two that is not above ``|x|``; 0 for zero and subnormal numbers.

    Read off the exponent bits, so it is exact just below a power of two, where ``log2`` is not.

    >>> power_below(torch.tensor([6.0, -1.0, 0.3]))
    tensor([4.0000, 1.0000, 0.2500])
    """
    return (x.view(torch.int32) & _EXPONENT).view(torch.float32)


def e2m1_nearest_(y: Tensor, scratch: Tensor) -> Tensor:
    """Round float32 ``y`` to E2M1 in place: saturate at ±6, nearest, ties to even.

    ``scratch`` is float32 of the same shape and is overwritten. A negative number that rounds to
    zero keeps its sign (code 8).

    >>> e2m1_nearest_(torch.tensor([0.25, 0.75, 2.5, 5.0, 6.4]), torch.empty(5))
    tensor([0., 1., 2., 4., 6.])
    """
    y.clamp_(-6.0, 6.0)
    torch.bitwise_and(y.view(torch.int32), _EXPONENT, out=scratch.view(torch.int32))
    # A step is half the power of two below |y|, and 0.5 below 2.
    step = scratch.clamp_(min=1.0).mul_(0.5)
    return y.div_(step).round_().mul_(step)


def e2m1_magnitudes_(y: Tensor, scratch: Tensor) -> Tensor:
    """Round float32 ``0 <= y < 7`` to E2M1 in place, as :func:`e2m1_nearest_` does, but faster.

    At ``1.5 · 2²² 2ᵉ`` numbers of float32 are one step of E2M1 apart, so adding it rounds, and
    taking it off again is exact. ``scratch`` is float32 of the same shape and is overwritten.

    >>> e2m1_magnitudes_(torch.tensor([0.25, 0.75, 2.5, 5.0, 6.4]), torch.empty(5))
    tensor([0., 1., 2., 4., 6.])
    """
    torch.bitwise_and(y.view(torch.int32), _EXPONENT, out=scratch.view(torch.int32))
    scratch.clamp_(min=1.0)
    return y.add_(scratch, alpha=_ROUNDING).sub_(scratch, alpha=_ROUNDING)


def e2m1_stochastic(y: Tensor, noise: Tensor) -> Tensor:
    """Round float32 ``y`` to E2M1 with one random byte an element.

    ``|y|`` moves up by ``noise / 256`` of the step and is cut to the grid; the step is taken again
    before the cut, because it may have grown. So P(up) = floor(256 f)/256 for a fraction f of the
    gap: the mean falls short by 1/512 of a step, and what lies on the grid never moves.

    >>> noise = torch.tensor([127, 128, 255], dtype=torch.uint8)
    >>> e2m1_stochastic(torch.tensor([2.5, 2.5, -5.0]), noise)
    tensor([ 2.,  3., -6.])
    """
    magnitude = y.abs()
    step = power_below(magnitude).clamp_(1.0, 4.0).mul_(0.5)
    moved = magnitude.addcmul_(noise.float(), step.mul_(1.0 / 256.0))
    step = power_below(moved).clamp_(1.0, 4.0).mul_(0.5)
    return moved.div_(step).floor_().mul_(step).clamp_(max=6.0).copysign_(y)


def e2m1_codes(magnitude: Tensor) -> Tensor:
    """Codes 0..7 of float32 magnitudes that lie on the E2M1 grid, as uint8.

    From 1 on a code is the exponent and the first bit of the mantissa, side by side in the float.

    >>> e2m1_codes(torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    top = magnitude.view(torch.int32) >> 22
    return top.sub_(2 * 126).clamp_(min=0).to(torch.uint8).add_(magnitude == 0.5)


def e4m3_nearest(x: Tensor) -> Tensor:
    """Nearest E4M3 value of float32 ``x >= 0``, at most 448; subnormals kept, NaN stays NaN.

    The same values as ``x.clamp(max=448).to(torch.float8_e4m3fn).float()``, several times as fast.

    >>> e4m3_nearest(torch.tensor([0.0009, 0.001, 17.0, 19.0, 500.0]))
    tensor([0.0000e+00, 1.9531e-03, 1.6000e+01, 2.0000e+01, 4.4800e+02])
    """
    clamped = x.clamp(max=448.0)
    magic = power_below(clamped).clamp_(min=2.0**-6).mul_(1.5 * 2**20)
    return clamped.add_(magic).sub_(magic)
