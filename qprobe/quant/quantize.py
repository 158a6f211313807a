"""Quantize one tensor: :func:`quantize` for codes and scales, :func:`fake_quantize` for values."""

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.quant import blockscale, integer
from qprobe.quant.fold import Axis, Folded, fold, resolve
from qprobe.quant.formats import E2M1, BlockFormat, IntFormat
from qprobe.quant.hadamard import SIZE as ROTATION
from qprobe.quant.hadamard import rotate_folded
from qprobe.quant.rounding import Rounding, e2m1_codes, e2m1_nearest_, e2m1_stochastic
from qprobe.quant.spec import QuantSpec, Tile
from qprobe.stats.codes import e2m1_values

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantized:
    """A quantized tensor: what would be stored, and how to read it back."""

    #: E2M1 codes 0..15 (bit 3 is the sign) as uint8, or integers as int8; the original's shape.
    codes: Tensor
    #: float32 value of each stored scale. Block formats: the original's shape with blocks for the
    #: axis (a 2D tile's scale stands in each of its rows). Integers: broadcasts against the codes.
    scale: Tensor
    #: Largest magnitude of the whole tensor, float32, no axes.
    amax: Tensor
    spec: QuantSpec
    axis: int
    #: The original's dtype.
    dtype: torch.dtype

    def __repr__(self) -> str:
        return (
            f"Quantized({self.spec}, {list(self.codes.shape)} along axis {self.axis}, "
            f"from {self.dtype})"
        )

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The values, computed in float32, as ``dtype`` (the original's if not given)."""
        form = self.spec.format
        if isinstance(form, IntFormat):
            return self.codes.float().mul_(self.scale).to(dtype or self.dtype)
        numbers = [*E2M1.magnitudes, *(-m for m in E2M1.magnitudes)]
        table = torch.tensor(numbers, dtype=torch.float32, device=self.codes.device)
        values = table[self.codes.int()]
        decode = blockscale.decode_scale(self.scale, self.amax, form)
        spread = decode.repeat_interleave(form.block, self.axis)
        return values.mul_(spread.narrow(self.axis, 0, values.shape[self.axis])).to(
            dtype or self.dtype
        )


def quantize(
    x: Tensor, spec: QuantSpec, axis: int = -1, generator: torch.Generator | None = None
) -> Quantized:
    """Codes and scales of ``x``.

    ``axis`` is the axis along which blocks lie, a token's or voxel's channels, or, for
    ``Granularity.CHANNEL``, the channel axis; a per-tensor scale ignores it. A 2D tile spans the
    first two axes of a weight. Stochastic rounding draws from ``generator``, one byte an element in
    the order of ``x``'s indices. The arithmetic is float32 whatever the dtype of ``x``.

    NaN and infinity have no code and are refused; :func:`fake_quantize` lets them through.

    >>> from qprobe.quant.formats import NVFP4
    >>> q = quantize(torch.tensor([0.1, -0.5, 3.0, 6.0]), QuantSpec(format=NVFP4))
    >>> q.codes.tolist(), q.scale.tolist(), q.dequantize().tolist()
    ([0, 9, 5, 7], [448.0], [0.0, -0.5, 3.0, 6.0])
    """
    _check(x, axis)
    _check_finite(x)
    form = spec.format
    wide = x.detach().float()
    at = resolve(x, axis)[0]
    if not x.numel():
        return _empty(x, spec, at)
    if isinstance(form, IntFormat):
        s = integer.scales(wide, form, integer.reduced_axes(wide, spec.granularity, axis))
        codes = integer.codes(wide, form, s).to(torch.int8)
        scale = s.scale
    else:
        partner = _partner(wide, (at,)) if spec.tile is Tile.TWO_D else None
        operand = Operand(axes=at, spec=spec, partner=partner)
        folded = fold(wide, at, blockscale.block_format(spec).block)
        noise = _noise(folded, wide, spec, generator)
        codes, stored = _block_codes(folded, operand, noise)
        codes, scale = folded.unfold(codes), folded.unfold_blocks(stored)
    return Quantized(
        codes=codes, scale=scale, amax=wide.abs().amax(), spec=spec, axis=at, dtype=x.dtype
    )


def fake_quantize(
    x: Tensor,
    spec: QuantSpec,
    axis: Axis = -1,
    generator: torch.Generator | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Quantize and dequantize ``x`` without making codes: the bits of ``quantize().dequantize()``.

    ``axis`` and ``generator`` as in :func:`quantize`; several axes are read as one. ``out`` may be
    a buffer of the same shape, dtype and memory layout as ``x``. Gradients pass straight through.
    NaN or infinity makes all that shares its scale non-finite (in NVFP4: the whole tensor), without
    a check that would have to wait for the device.

    >>> from qprobe.quant.formats import INT4
    >>> from qprobe.quant.spec import Granularity
    >>> x = torch.tensor([[7.0, 1.4], [0.7, 0.12]])
    >>> fake_quantize(x, QuantSpec(format=INT4, granularity=Granularity.TOKEN))
    tensor([[7.0000, 1.0000],
            [0.7000, 0.1000]])
    """
    _check(x, axis)
    if out is not None and (out.shape, out.stride(), out.dtype) != (x.shape, x.stride(), x.dtype):
        raise InputError(
            f"out has to be like x, {list(x.shape)} {x.dtype} with strides {x.stride()}; "
            f"got {list(out.shape)} {out.dtype} with strides {out.stride()}."
        )
    partner = _partner(x, resolve(x, axis)) if spec.tile is Tile.TWO_D else None
    operand = Operand(axes=axis, spec=spec, partner=partner)
    return StraightThrough.over(
        x, quantize_operand(x.detach(), operand, generator, x.dtype, out=out)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """How one operand of one matrix product is quantized, on which axes of which view of it."""

    axes: Axis
    spec: QuantSpec
    #: The other axis of a 2D tile.
    partner: int | None = None
    #: Rotate in groups of this size along ``axes`` first, and back afterwards.
    hadamard: int | None = None


def quantize_operand(
    x: Tensor,
    operand: Operand,
    generator: torch.Generator | None,
    dtype: torch.dtype,
    out: Tensor | None = None,
) -> Tensor:
    """Quantized and dequantized values of ``x`` in ``x``'s own basis and shape, as ``dtype``.

    A rotated operand comes back to the original basis: ``R Rᵀ = I``, so the product of two operands
    is the same in either. Partial groups are filled with zeros and cut off again.
    """
    if not x.numel():
        return x.to(dtype, copy=True)
    spec = operand.spec
    if isinstance(spec.format, IntFormat):
        values = integer.fake_quantize(x.float(), spec, operand.axes).to(dtype)
        return values if out is None else out.copy_(values)
    folded = fold(x if x.dtype in _KERNEL_TYPES else x.float(), operand.axes, spec.format.block)
    noise = _noise(folded, x, spec, generator)
    if operand.hadamard:
        return folded.unfold(_rotated(folded, spec, noise)).to(dtype)
    target = _target(folded, dtype, out)
    blockscale.fake_quantize(folded, spec, noise, operand.partner, target)
    values = folded.unfold(target).to(dtype)
    if out is None or target.data_ptr() == out.data_ptr():
        return values
    return out.copy_(values)


def operand_codes(x: Tensor, operand: Operand) -> Tensor:
    """Codes that :func:`quantize_operand` rounds ``x`` to, one way to write zero, flat, one byte.

    Rounds to nearest. They come in the order in which ``x`` lies in memory, and of a rotated
    operand they are those of the rotated values, so they are for comparing two states of one
    tensor. Nothing is checked: what stands for NaN and infinity is arbitrary.

    >>> from qprobe.quant.formats import NVFP4
    >>> x = torch.tensor([6.0, -0.01, -3.0])
    >>> operand_codes(x, Operand(axes=0, spec=QuantSpec(format=NVFP4))).tolist()
    [7, 0, 13]
    """
    codes = on_grid(x, operand, None).codes.to(torch.int8).flatten()
    return (
        codes if isinstance(operand.spec.format, IntFormat) else codes.masked_fill_(codes == 8, 0)
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """One operand where it is rounded: turned, if it is rotated, and seen along its blocks.

    Tensors are ``[outer, length, inner]`` with blocks in the middle, a rotated operand's partial
    group filled up; of integer formats they have the operand's own shape.
    """

    #: What is rounded, float32; of a rotated bfloat16 operand before it is cut to bfloat16.
    x: Tensor
    #: E2M1 codes 0..15 as uint8, or integers as float32.
    codes: Tensor
    #: What is stored as the scale of each block ``[outer, blocks, inner]``; integers: what ``unit``
    #: is.
    scale: Tensor
    #: What the value of a code is multiplied with; broadcasts against ``x``.
    unit: Tensor
    form: BlockFormat | IntFormat

    def values(self) -> Tensor:
        """The quantized values, in the same basis as ``x``: bit for bit what a layer rounds to."""
        if isinstance(self.form, IntFormat):
            return self.codes * self.unit
        return e2m1_values(self.codes).mul_(self.unit)

    def limit(self) -> Tensor:
        """The largest magnitude that a code could hold; broadcasts against ``x``."""
        form = self.form
        return self.unit * (form.largest if isinstance(form, IntFormat) else form.element.largest)


def on_grid(x: Tensor, operand: Operand, generator: torch.Generator | None) -> Grid:
    """Codes and scales behind the values of :func:`quantize_operand`, NaN and infinity let through.

    >>> from qprobe.quant.formats import NVFP4
    >>> plan = Operand(axes=0, spec=QuantSpec(format=NVFP4))
    >>> grid = on_grid(torch.tensor([6.0, -0.1, 3.0]), plan, None)
    >>> grid.codes.flatten().tolist(), grid.values().flatten().tolist(), grid.scale.item()
    ([7, 8, 5], [6.0, 0.0, 3.0], 448.0)
    """
    spec, form = operand.spec, operand.spec.format
    if isinstance(form, IntFormat):
        wide = x.float()
        s = integer.scales(wide, form, integer.reduced_axes(wide, spec.granularity, operand.axes))
        codes = integer.codes(wide, form, s)
        return Grid(x=wide, codes=codes, scale=s.scale, unit=s.scale, form=form)
    folded = fold(x if x.dtype in _KERNEL_TYPES else x.float(), operand.axes, form.block)
    noise = _noise(folded, x, spec, generator)
    rounded = seen = folded.x.float()
    if operand.hadamard:
        noise = None if noise is None else _padded(noise)
        seen = rotate_folded(_padded(seen))
        rounded = seen.to(folded.x.dtype).float()
    folded = replace(folded, x=rounded) if seen.shape == folded.x.shape else _whole(rounded)
    codes, scale = _block_codes(folded, operand, noise)
    # The largest of a 2d tile is the largest of one of its blocks, so this is the tensor's.
    unit = blockscale.decode_scale(scale, rounded.abs().amax(), form)
    spread = unit.repeat_interleave(form.block, 1)[:, : rounded.shape[1]]
    return Grid(x=seen, codes=codes, scale=scale, unit=spread, form=form)


_KERNEL_TYPES = (torch.float32, torch.bfloat16)


class StraightThrough(torch.autograd.Function):
    """Values in place of a tensor, whose gradient passes through as if nothing had happened."""

    @classmethod
    def over(cls, x: Tensor, values: Tensor) -> Tensor:
        """``values``, with the gradient of ``x``."""
        if not (x.requires_grad and torch.is_grad_enabled()):
            return values
        return cast("Tensor", cls.apply(x, values))  # type: ignore[no-untyped-call]

    @staticmethod
    def forward(ctx: object, x: Tensor, values: Tensor) -> Tensor:
        return values

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _target(folded: Folded, dtype: torch.dtype, out: Tensor | None) -> Tensor:
    """Where the kernels write: ``out`` itself where it lies in memory as they see it."""
    if out is not None and out.dtype == folded.x.dtype:
        arranged = folded.arrange(out)
        if arranged.data_ptr() == out.data_ptr() and arranged.is_contiguous():
            return arranged
    narrow = dtype == torch.bfloat16 and folded.x.dtype == torch.bfloat16
    return torch.empty_like(folded.x, dtype=torch.bfloat16 if narrow else torch.float32)


def _rotated(folded: Folded, spec: QuantSpec, noise: Tensor | None) -> Tensor:
    length = folded.x.shape[1]
    x = _padded(folded.x)
    noise = None if noise is None else _padded(noise)
    turned = rotate_folded(x.float()).to(x.dtype)
    out = torch.empty_like(turned, dtype=torch.float32)
    blockscale.fake_quantize(_whole(turned), spec, noise, None, out)
    return rotate_folded(out, inverse=True)[:, :length].contiguous()


def _whole(x: Tensor) -> Folded:
    """``[outer, length, inner]`` as what it is."""
    return Folded(x=x, order=(0, 1, 2), sizes=tuple(x.shape), middle=range(1, 2))


def _padded(x: Tensor) -> Tensor:
    missing = -x.shape[1] % ROTATION
    return torch.nn.functional.pad(x, (0, 0, 0, missing)) if missing else x


def _noise(
    folded: Folded, x: Tensor, spec: QuantSpec, generator: torch.Generator | None
) -> Tensor | None:
    """A random byte an element, drawn in the order of ``x``'s indices, lying as ``folded`` does."""
    if spec.rounding is not Rounding.STOCHASTIC:
        return None
    if generator is None:
        raise InputError("stochastic rounding draws from a torch.Generator; pass generator=.")
    if generator.device.type != x.device.type:
        raise InputError(
            f"the tensor is on {x.device} and the generator on {generator.device}; pass one made "
            f"with torch.Generator({x.device.type!r})."
        )
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None, generator=generator)
    drawn = words.view(torch.uint8)[: x.numel()].view(x.shape)
    return folded.arrange(drawn).contiguous()


def _empty(x: Tensor, spec: QuantSpec, axis: int) -> Quantized:
    """Nothing to quantize: no codes, and no scale either."""
    form, sizes = spec.format, list(x.shape)
    if isinstance(form, IntFormat):
        for a in integer.reduced_axes(x, spec.granularity, axis):
            sizes[a] = 1
    else:
        sizes[axis] = -(-sizes[axis] // form.block)
    return Quantized(
        codes=torch.empty_like(x, dtype=torch.int8 if isinstance(form, IntFormat) else torch.uint8),
        scale=torch.ones(sizes, dtype=torch.float32, device=x.device),
        amax=torch.zeros((), dtype=torch.float32, device=x.device),
        spec=spec,
        axis=axis,
        dtype=x.dtype,
    )


def _block_codes(folded: Folded, operand: Operand, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """E2M1 codes and stored scales of float32 ``[outer, length, inner]``."""
    form = blockscale.block_format(operand.spec)
    absmax = blockscale.block_absmax(folded, operand.spec, operand.partner)
    stored, encode, _ = blockscale.scales(absmax, absmax.amax(), form)
    spread = encode.repeat_interleave(form.block, 1)[:, : folded.x.shape[1]]
    y = folded.x * spread
    if noise is None:
        magnitude = e2m1_nearest_(y.clone(), torch.empty_like(y)).abs_()
    else:
        magnitude = e2m1_stochastic(y, noise).abs_()
    codes = e2m1_codes(magnitude).bitwise_or_(torch.signbit(y).to(torch.uint8).mul_(8))
    return codes, stored


def _partner(x: Tensor, axes: tuple[int, ...]) -> int:
    """The other axis of a weight's 2D tile."""
    if x.dim() < 2 or len(axes) != 1 or axes[0] > 1:
        raise InputError(
            "a 2d tile spans the first two axes (out x in) of a weight, so axis is 0 or 1; got "
            f"axis {axes if len(axes) > 1 else axes[0]} of a tensor of shape {list(x.shape)}."
        )
    return 1 - axes[0]


def _check(x: Tensor, axis: Axis) -> None:
    if not isinstance(x, Tensor):
        raise InputError(f"a torch.Tensor can be quantized, got a {type(x).__name__}.")
    if x.layout is not torch.strided or x.dtype not in _FLOATS:
        raise InputError(
            f"only dense float32, bfloat16, float16 and float64 tensors can be quantized; "
            f"got {x.dtype}, {x.layout}."
        )
    if not x.dim():
        raise InputError("a tensor without axes has nothing to share a scale; reshape it to [1].")
    resolve(x, axis)


def _check_finite(x: Tensor) -> None:
    bad = ~torch.isfinite(x.float())
    if bad.any():
        first = bad.nonzero()[0].tolist()
        raise InputError(
            f"{int(bad.sum())} of {x.numel()} elements are NaN or infinite (in float32), the first "
            f"at index {first}; they have no code: clean the tensor, or use fake_quantize."
        )
