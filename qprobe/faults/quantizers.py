"""Quantizers that do not do what the recipe says."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qprobe.quant.absmax import group_absmax
from qprobe.quant.fold import Axis
from qprobe.quant.formats import BlockFormat, IntFormat
from qprobe.quant.products import Quantizer, Role
from qprobe.quant.quantize import Operand
from qprobe.quant.rounding import Rounding, e2m1_nearest_, e2m1_stochastic, e4m3_nearest

_FULL = 448.0 * 6.0


@dataclass(frozen=True, slots=True, eq=False)
class Intended:
    """What the recipe would have done with an operand."""

    base: Quantizer
    role: Role
    generator: torch.Generator | None

    def __call__(self, x: Tensor, operand: Operand) -> Tensor:
        return self.base(x, operand, self.role, self.generator)


How = Callable[[Tensor, Operand, Intended], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Tampered:
    """Does to some operands what the recipe does not say, and to the others what it says."""

    base: Quantizer
    #: ``(gemm, operand)`` pairs.
    at: frozenset[tuple[str, str]]
    how: How

    def __call__(
        self, x: Tensor, operand: Operand, role: Role, generator: torch.Generator | None
    ) -> Tensor:
        if (role.gemm, role.operand) not in self.at:
            return self.base(x, operand, role, generator)
        return self.how(x, operand, Intended(self.base, role, generator))


def constant_scale(unit: float) -> How:
    """Block scales in E4M3 without the factor of the tensor: a constant takes its place."""

    def how(x: Tensor, operand: Operand, intended: Intended) -> Tensor:
        absmax = group_absmax(x, operand)
        return _in_blocks(
            x.float(), absmax, torch.full_like(absmax, unit), operand, intended.generator
        )

    return how


def saturating(factor: float) -> How:
    """Scales ``factor`` times too small: what they cannot hold is cut off."""

    def how(x: Tensor, operand: Operand, intended: Intended) -> Tensor:
        limit = group_absmax(x, operand).to(x.dtype) / factor
        return intended(x.clamp(-limit, limit), operand)

    return how


def stale(factor: float) -> How:
    """Scales of a time when the operand was ``factor`` times as large."""

    def how(x: Tensor, operand: Operand, intended: Intended) -> Tensor:
        absmax = group_absmax(x, operand).float() * factor
        form = operand.spec.format
        if isinstance(form, IntFormat):
            return _in_steps(x.float(), absmax / form.largest)
        unit = absmax.amax() / _FULL
        return _in_blocks(x.float(), absmax, unit.expand_as(absmax), operand, intended.generator)

    return how


def few_bits(removed: int) -> How:
    """Integers of ``4 − removed`` bits (of an integer format's own bits less that)."""

    def how(x: Tensor, operand: Operand, intended: Intended) -> Tensor:
        form = operand.spec.format
        bits = form.bits if isinstance(form, IntFormat) else form.element.bits
        coarse = IntFormat(name=f"int{bits - removed}", bits=max(2, bits - removed))
        if isinstance(form, IntFormat):
            spec = replace(operand.spec, format=coarse)
            return intended(x, replace(operand, spec=spec))
        return _in_steps(x.float(), group_absmax(x, operand) / coarse.largest)

    return how


def transposed_scales(axis: Axis, rows: Tensor) -> How:
    """A share of the weight's rows is read back with the scales that lie along ``axis``.

    ``rows`` broadcasts against the operand and says which.
    """

    def how(x: Tensor, operand: Operand, intended: Intended) -> Tensor:
        right = group_absmax(x, operand)
        wrong = group_absmax(x, replace(operand, axes=axis))
        ratio = torch.where(right > 0, wrong / right, 1.0)
        values = intended(x, operand)
        return torch.where(rows.to(x.device), values * ratio.to(values), values)

    return how


def noisy(factor: float, seed: int) -> How:
    """Noise without structure: ``factor`` times the rounding error's size, the same every time."""

    def how(x: Tensor, operand: Operand, intended: Intended) -> Tensor:
        values = intended(x, operand)
        size = (values - x).square().mean().sqrt() * factor
        drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        return values + drawn.to(values) * size

    return how


def nearest(share: float, seed: int) -> How:
    """A share of the elements, always the same, is rounded to nearest instead of stochastically."""

    def how(x: Tensor, operand: Operand, intended: Intended) -> Tensor:
        spec = replace(operand.spec, rounding=Rounding.NEAREST_EVEN)
        drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))
        chosen = (drawn < share).to(x.device)
        rounded = intended(x, replace(operand, spec=spec))
        return torch.where(chosen, rounded, intended(x, operand))

    return how


def _in_steps(x: Tensor, step: Tensor) -> Tensor:
    """Integers of a step; 0 where the step is 0."""
    return torch.where(step > 0, (x / step).round() * step, 0.0)


def _in_blocks(
    x: Tensor, absmax: Tensor, unit: Tensor, operand: Operand, generator: torch.Generator | None
) -> Tensor:
    """E2M1 under E4M3 scales that are stored in ``unit``, one an element."""
    scale = e4m3_nearest(absmax / (6.0 * unit)) * unit
    y = torch.where(scale > 0, x / scale, 0.0).clamp_(-6.0, 6.0).contiguous()
    if operand.spec.rounding is Rounding.STOCHASTIC:
        noise = torch.empty(y.shape, dtype=torch.uint8, device=y.device)
        return e2m1_stochastic(y, noise.random_(0, 256, generator=generator)) * scale
    return e2m1_nearest_(y, torch.empty_like(y)) * scale


def has_blocks(spec: object) -> bool:
    """Whether an operand is in a block format with a factor per tensor."""
    form = getattr(spec, "format", None)
    return isinstance(form, BlockFormat) and form.tensor_scale
