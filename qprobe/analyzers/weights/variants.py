"""The ways in which a weight could be quantized, applied to one piece of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qprobe.analyzers.weights.pieces import padded, with_largest
from qprobe.quant.formats import INT3, INT4, INT8, MXFP4, NVFP4, IntFormat
from qprobe.quant.hadamard import SIZE, rotate
from qprobe.quant.quantize import Operand, quantize_operand
from qprobe.quant.spec import Granularity, QuantSpec, Tile

#: Neighbouring inputs that share an integer scale.
GROUP = 128


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Whole:
    """What a piece has to know of the whole weight; float32."""

    #: Largest magnitude; of the rotated weight; of the weight with all inputs equally large.
    largest: Tensor
    largest_rotated: Tensor
    largest_even: Tensor
    #: Root mean square of each input ``[in]``, 1 where it is 0.
    input_size: Tensor


#: Values of a piece after it was quantized within its whole.
Variant = Callable[[Tensor, Whole], Tensor]


def _blocks(spec: QuantSpec, tile: bool = False) -> Variant:
    operand = Operand(axes=1, spec=spec, partner=0 if tile else None)

    def quantized(piece: Tensor, whole: Whole) -> Tensor:
        return _in_whole(piece, whole.largest, operand)

    return quantized


def _rotated(piece: Tensor, whole: Whole) -> Tensor:
    turned = turn(piece)
    operand = Operand(axes=1, spec=QuantSpec(format=NVFP4))
    back = rotate(_in_whole(turned, whole.largest_rotated, operand), 1, inverse=True)
    return back[:, : piece.shape[1]]


def _even(piece: Tensor, whole: Whole) -> Tensor:
    sizes = of_inputs(whole.input_size, piece)
    operand = Operand(axes=1, spec=QuantSpec(format=NVFP4))
    return _in_whole(piece / sizes, whole.largest_even, operand) * sizes


def _per_tensor(form: IntFormat) -> Variant:
    return _blocks(QuantSpec(format=form, granularity=Granularity.TENSOR))


def _per_channel(form: IntFormat) -> Variant:
    operand = Operand(axes=0, spec=QuantSpec(format=form, granularity=Granularity.CHANNEL))

    def quantized(piece: Tensor, _: Whole) -> Tensor:
        return quantize_operand(piece, operand, None, torch.float32)

    return quantized


def _per_group(form: IntFormat) -> Variant:
    operand = Operand(axes=1, spec=QuantSpec(format=form, granularity=Granularity.TOKEN))

    def quantized(piece: Tensor, _: Whole) -> Tensor:
        rows = piece.flatten(1)
        groups = padded(rows, 1, GROUP).view(-1, GROUP)
        values = quantize_operand(groups, operand, None, torch.float32)
        return values.view(len(rows), -1)[:, : rows.shape[1]].reshape(piece.shape)

    return quantized


#: Every way by the name under which it is recorded. Pieces are float32 ``[out, in, ...]``.
VARIANTS: Mapping[str, Variant] = {
    "nvfp4": _blocks(QuantSpec(format=NVFP4)),
    "nvfp4_2d": _blocks(QuantSpec(format=NVFP4, tile=Tile.TWO_D), tile=True),
    "nvfp4_rht": _rotated,
    "nvfp4_even": _even,
    "mxfp4": _blocks(QuantSpec(format=MXFP4)),
    **{
        f"{form}_{name}": make(form)
        for form in (INT8, INT4, INT3)
        for name, make in (
            ("tensor", _per_tensor),
            ("channel", _per_channel),
            ("group", _per_group),
        )
    },
}


def turn(piece: Tensor) -> Tensor:
    """``piece`` rotated in groups of 16 inputs, filled with zeros to whole groups."""
    return rotate(padded(piece, 1, SIZE), 1)


def of_inputs(values: Tensor, piece: Tensor) -> Tensor:
    """Values ``[in]`` that broadcast against ``[out, in, ...]``."""
    return values.view(1, -1, *[1] * (piece.dim() - 2))


def _in_whole(piece: Tensor, largest: Tensor, operand: Operand) -> Tensor:
    values = quantize_operand(with_largest(piece, largest), operand, None, torch.float32)
    return values[: len(piece)]
