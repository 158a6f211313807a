"""What shares a scale with each element of an operand: the largest magnitude of its group."""

from torch import Tensor

from qprobe.quant import blockscale, integer
from qprobe.quant.fold import fold
from qprobe.quant.formats import IntFormat
from qprobe.quant.quantize import Operand


def group_absmax(x: Tensor, operand: Operand) -> Tensor:
    """The largest magnitude among what shares a scale with each element, in ``x``'s shape.

    >>> import torch
    >>> from qprobe.quant import NVFP4, QuantSpec
    >>> x = torch.tensor([[1.0, -3.0] * 8 + [0.5] * 16])
    >>> group_absmax(x, Operand(axes=1, spec=QuantSpec(format=NVFP4)))[0, ::16]
    tensor([3.0000, 0.5000])
    """
    form = operand.spec.format
    if isinstance(form, IntFormat):
        axes = integer.reduced_axes(x, operand.spec.granularity, operand.axes)
        return x.abs().amax(axes, keepdim=True).expand_as(x) if axes else x.abs()
    folded = fold(x.float(), operand.axes, form.block)
    blocks = blockscale.block_absmax(folded, operand.spec, operand.partner)
    spread = blocks.repeat_interleave(form.block, 1)[:, : folded.x.shape[1]]
    return folded.unfold(spread.contiguous())
