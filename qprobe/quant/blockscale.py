"""NVFP4 and MXFP4: small floats under block scales, in float32, one rounding per operation.

For an operand with largest magnitude A and a block with largest magnitude b, NVFP4 is ::

    S = min(2688 / A, FLT_MAX)        2688 = 448 · 6;  S = 1 where A = 0
    s = E4M3(min(b · (S · 1/6), 448)) the stored scale
    e = min(1 / (s · 1/S), FLT_MAX)   encode:  code = E2M1(clamp(x · e, ±6))
    v = (s · A) · 1/2688              decode:  value = code · v

which is Transformer Engine's order of operations since 2.14; the order matters to the last bit.
Where A is so small that S is clamped, or so large that s·A overflows, those products lose their
meaning and v is ``s · 1/S`` or ``s · (A · 1/2688)`` instead. A zero block has s = 0 and
e = FLT_MAX, finite, so that it stays zero. MXFP4 has no A: its scale is the power of two
``2^(⌊log2 b⌋ − 2)``.

Two implementations give the same bits: C kernels (:mod:`qprobe.native`) and PyTorch in pieces that
stay in cache. Both take tensors as :func:`~qprobe.quant.fold.fold` presents them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from qprobe import native
from qprobe.quant.fold import Folded
from qprobe.quant.formats import BlockFormat, ScaleFormat
from qprobe.quant.rounding import e2m1_nearest_, e2m1_stochastic, e4m3_nearest, power_below
from qprobe.quant.spec import QuantSpec, Tile

FLT_MAX = torch.finfo(torch.float32).max
_SIXTH = 1.0 / 6.0
_FULL = 448.0 * 6.0
#: Elements worked on at a time: few enough that intermediate results stay in the last-level cache,
#: enough that the calls into PyTorch do not count.
_PIECE = 1 << 19
_NATIVE_TYPES = {
    torch.float32: native.Element.FLOAT32,
    torch.bfloat16: native.Element.BFLOAT16,
}


class Scales(NamedTuple):
    """The scales of ``[outer, blocks, inner]`` blocks, float32."""

    stored: Tensor
    encode: Tensor
    decode: Tensor


def fake_quantize(
    folded: Folded, spec: QuantSpec, noise: Tensor | None, partner: int | None, out: Tensor
) -> None:
    """Write the quantized and dequantized values of ``folded.x`` to ``out``.

    ``out`` is a contiguous tensor of the same shape, float32 or bfloat16. ``noise`` holds a random
    byte an element for stochastic rounding; ``partner`` is the second axis of a 2D tile.
    """
    form = block_format(spec)
    absmax = block_absmax(folded, spec, partner)
    if not _native(folded.x, out):
        _apply_in_pieces(folded.x, absmax, form, noise, out)
        return
    if form.scale is ScaleFormat.E4M3:
        encode, decode = absmax, torch.empty_like(absmax)
        native.require().nvfp4_scales(
            absmax.data_ptr(), absmax.numel(), encode.data_ptr(), decode.data_ptr()
        )
    else:
        _, encode, decode = scales(absmax, absmax.amax(), form)
    x = folded.x
    native.require().e2m1_apply(
        *(x.data_ptr(), _NATIVE_TYPES[x.dtype], out.data_ptr(), _NATIVE_TYPES[out.dtype]),
        *(None if noise is None else noise.data_ptr(), encode.data_ptr(), decode.data_ptr()),
        *(*x.shape, form.block),
    )


def _apply_in_pieces(
    x: Tensor, absmax: Tensor, form: BlockFormat, noise: Tensor | None, out: Tensor
) -> None:
    """``out = E2M1(x · encode) · decode`` for ``[outer, length, inner]``."""
    scales_of = scaling(absmax.amax(), form)
    scratch = x.new_empty(2, min(x.numel(), _piece_size(x)), dtype=torch.float32)
    for piece in _pieces(x, form.block):
        source = piece.of(x)
        y, spare = _like(source, scratch)
        _, encode, decode = scales_of(piece.of_blocks(absmax))
        torch.mul(source, encode.unsqueeze(2), out=y)
        if noise is None:
            e2m1_nearest_(y, spare)
        else:
            y = e2m1_stochastic(y, piece.of(noise))
        piece.of(out).copy_(y.mul_(decode.unsqueeze(2)))


def block_absmax(folded: Folded, spec: QuantSpec, partner: int | None) -> Tensor:
    """Largest magnitude of each block (of its tile in 2D), float32 ``[outer, blocks, inner]``."""
    block = block_format(spec).block
    x = folded.x
    outer, length, inner = x.shape
    blocks = -(-length // block)
    absmax = torch.empty(outer, blocks, inner, dtype=torch.float32, device=x.device)
    if _native(x, absmax):
        native.require().block_absmax(
            x.data_ptr(), _NATIVE_TYPES[x.dtype], outer, length, inner, block, absmax.data_ptr()
        )
    else:
        for piece in _pieces(x, block):
            piece.of_blocks(absmax).copy_(_absmax(piece.of(x)))
    if spec.tile is Tile.TWO_D and partner is not None:
        _spread_over_tiles(absmax, folded.beside(partner, blocks), block)
    return absmax


def _absmax(x: Tensor) -> Tensor:
    """Largest magnitude along axis 2 of ``[outer, blocks, elements, inner]``.

    Taken over the bits, which order magnitudes as the numbers do, with NaN on top: PyTorch reduces
    short rows of integers several times as fast as rows of floats.
    """
    bits = torch.int32 if x.dtype == torch.float32 else torch.int16
    return (x.view(bits) & torch.iinfo(bits).max).amax(2).view(x.dtype)


def scales(absmax: Tensor, amax: Tensor, form: BlockFormat) -> Scales:
    """Stored, encode and decode scale of each block; ``amax`` is the largest of the tensor."""
    return scaling(amax, form)(absmax)


def scaling(amax: Tensor, form: BlockFormat) -> Callable[[Tensor], Scales]:
    """From the absmax of blocks to their scales."""
    if form.scale is ScaleFormat.E8M0:
        return _powers_of_two
    factor = _TensorScale.of(amax)

    def of(absmax: Tensor) -> Scales:
        stored = e4m3_nearest(absmax * factor.block)
        encode = torch.ones_like(stored).div_(stored * factor.decode).clamp_(max=FLT_MAX)
        return Scales(stored, encode, (stored * factor.first).mul_(factor.second))

    return of


def _powers_of_two(absmax: Tensor) -> Scales:
    # The block's exponent less that of the largest element, 4.0; E8M0 starts at 2^-127.
    stored = power_below(absmax).mul_(0.25).clamp_(min=2.0**-127)
    decode = torch.where(absmax.isfinite(), stored, absmax)
    return Scales(stored, torch.ones_like(stored) / stored, decode)


def decode_scale(stored: Tensor, amax: Tensor, form: BlockFormat) -> Tensor:
    """What a code of each block is multiplied with, from what is stored."""
    if form.scale is ScaleFormat.E8M0:
        return stored
    factor = _TensorScale.of(amax)
    return (stored * factor.first).mul_(factor.second)


class _TensorScale(NamedTuple):
    """What the largest magnitude of a tensor does to its blocks."""

    #: Largest magnitude of a block to its scale before rounding.
    block: Tensor
    decode: Tensor
    #: A stored scale becomes a decode scale by two multiplications.
    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, amax: Tensor) -> "_TensorScale":
        # Tensor numerators: PyTorch turns `number / tensor` into a product with a reciprocal.
        one, full = torch.ones_like(amax), torch.full_like(amax, _FULL)
        ratio = full / amax
        encode = ratio.clamp(max=FLT_MAX)
        encode = torch.where((amax == 0) | (encode == 0), one, encode)
        decode = one / encode
        tiny = ratio > FLT_MAX
        huge = (amax * 448.0 > FLT_MAX) & (amax <= FLT_MAX)
        first = torch.where(huge, amax * (one / full), amax)
        return cls(
            block=encode * _SIXTH,
            decode=decode,
            first=torch.where(tiny, decode, first),
            second=torch.where(tiny | huge, one, one / full),
        )


class _Piece(NamedTuple):
    """A run of whole blocks: part of the outer axis, or part of the length."""

    outer: slice
    first: int
    stop: int
    block: int

    def of(self, x: Tensor) -> Tensor:
        """The piece as ``[outer, blocks, elements, inner]``."""
        part = x[self.outer, self.first : self.stop]
        elements = min(self.block, self.stop - self.first)
        return part.view(part.shape[0], -1, elements, part.shape[2])

    def of_blocks(self, values: Tensor) -> Tensor:
        """The same blocks of ``[outer, blocks, inner]``."""
        first = self.first // self.block
        return values[self.outer, first : first + -(-(self.stop - self.first) // self.block)]


def _piece_size(x: Tensor) -> int:
    """Elements of a piece: on a GPU everything at once, since there a launch costs more."""
    return _PIECE if x.device.type == "cpu" else x.numel()


def _pieces(x: Tensor, block: int) -> Iterator[_Piece]:
    """Cut ``[outer, length, inner]`` into runs of whole blocks, partial blocks by themselves."""
    outer, length, inner = x.shape
    size = _piece_size(x)
    whole = length - length % block
    rows = max(1, size // max(1, whole * inner))
    run = whole if rows > 1 else max(block, size // inner // block * block)
    for o in range(0, outer, rows):
        part = slice(o, min(o + rows, outer))
        for first in range(0, whole, run or block):
            yield _Piece(part, first, min(first + run, whole), block)
        if whole < length:
            yield _Piece(part, whole, length, block)


def _like(source: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    count = source.numel()
    if count > scratch.shape[1]:  # one block row wider than a piece
        scratch = scratch.new_empty(2, count)
    y, magic = scratch[:, :count]
    return y.view(source.shape), magic.view(source.shape)


def _spread_over_tiles(absmax: Tensor, beside: tuple[int, int, int], tile: int) -> None:
    """Give the 16 neighbours of a 16×16 tile their common maximum, in place."""
    outer, length, inner = beside
    if _native(absmax):
        native.require().group_max(absmax.data_ptr(), outer, length, inner, tile)
        return
    values = absmax.view(beside)
    for first in range(0, length, tile):
        group = values[:, first : first + tile]
        group.copy_(group.amax(1, keepdim=True).expand_as(group))


def _native(*tensors: Tensor) -> bool:
    """Whether the kernels may be given the addresses of these.

    Tensors that dispatch for themselves (fake, functional, distributed) have no memory to point to.
    """
    return native.kernels is not None and all(
        t.device.type == "cpu"
        and t.dtype in _NATIVE_TYPES
        and type(t).__torch_dispatch__ is Tensor.__torch_dispatch__
        for t in tensors
    )


def block_format(spec: QuantSpec) -> BlockFormat:
    """The format of a spec that is known to have blocks."""
    if not isinstance(spec.format, BlockFormat):
        raise TypeError(f"{spec.format} has no blocks")
    return spec.format
