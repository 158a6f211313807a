"""A linear layer with both operands quantized, by one C kernel; for evaluation.

The kernel rounds a few rows of the input at a time and multiplies them while they are in the cache.
Codes times stored scales are bfloat16 numbers, so their products are exact, and float32 sums them;
what a tensor, row or column shares is multiplied with the sum. So it computes what
:class:`~qprobe.quant.products.LinearKernel` does but for the rounding of sums, on processors that
multiply bfloat16.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qprobe import native
from qprobe.quant import blockscale, integer
from qprobe.quant.formats import NVFP4, IntFormat
from qprobe.quant.products import Kernel, LinearKernel, Role, Setup, operand_of
from qprobe.quant.quantize import Operand, quantize_operand
from qprobe.quant.spec import Granularity
from qprobe.quant.transposed_kernel import TransposedKernel

#: Outputs that the kernel multiplies together, and inputs up to whose multiple rows are filled up.
PANEL = 32
LANES = 16
#: Scales below this are left to the other path: quotients of subnormal numbers are not exact.
SMALLEST = 1e-30


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packed:
    """A rounded weight as the kernel reads it, and how it rounds inputs."""

    #: bfloat16 ``[panels, pairs of inputs, PANEL, 2]``.
    weight: Tensor
    #: What the sums of each output are multiplied with, float32.
    scale: Tensor
    shape: tuple[int, int]
    form: native.Rows
    #: The largest integer; of blocks nothing.
    largest: int

    def multiply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x·wᵀ + bias`` of dense float32 tensors."""
        outputs, inputs = self.shape
        y = x.new_empty(*x.shape[:-1], outputs)
        kernels = native.require()
        scratch = torch.empty(kernels.linear_scratch(inputs), dtype=torch.uint8)
        kernels.linear(
            native.Linear(
                x=x.data_ptr(),
                y=y.data_ptr(),
                rows=x.numel() // inputs,
                inputs=inputs,
                outputs=outputs,
                form=self.form,
                largest=self.largest,
                weight=self.weight.data_ptr(),
                scale=self.scale.data_ptr(),
                bias=None if bias is None else bias.data_ptr(),
                scratch=scratch.data_ptr(),
            )
        )
        return y


def usable(x: Tensor) -> bool:
    """Whether the kernel is there and takes such tensors.

    Those that dispatch for themselves (fake, functional, distributed) have no memory to point to.
    """
    return (
        native.kernels is not None
        and native.kernels.multiplies_bfloat16()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


def pack(w: Tensor, kernel: Kernel, setup: Setup) -> Packed | None:
    """A linear layer's weight as the kernel reads it.

    None where the kernel does not know the recipe: it rounds, unrotated, to NVFP4 or to integers of
    which a row of the input, an output or everything shares a scale.
    """
    if isinstance(kernel, TransposedKernel):
        return pack(w.T, LinearKernel(w.T), setup)
    x_how = operand_of(w.new_empty(0, w.shape[1]), Role("fprop", "x"), kernel, setup.recipe)
    w_how = operand_of(w.detach(), Role("fprop", "w"), kernel, setup.recipe)
    if x_how is None or w_how is None or not usable(w):
        return None
    x, (view, how) = x_how[1], w_how
    if x.hadamard or how.hadamard:
        return None
    form = _rows(x)
    scale = None if form is None else _scale(view, how)
    if form is None or scale is None:
        return None
    # The quotient has seven significant bits at most, so that bfloat16 finds it whatever the
    # rounding of the product was.
    exact = (quantize_operand(view, how, None, torch.float32) / scale).bfloat16()
    outputs, inputs = w.shape
    filled = exact.new_zeros(-(-outputs // PANEL) * PANEL, -(-inputs // LANES) * LANES)
    filled[:outputs, :inputs] = exact
    integers = x.spec.format
    return Packed(
        weight=filled.view(-1, PANEL, filled.shape[1] // 2, 2).transpose(1, 2).contiguous(),
        scale=scale.expand(outputs, 1).flatten().contiguous(),
        shape=(outputs, inputs),
        form=form,
        largest=integers.largest if isinstance(integers, IntFormat) else 0,
    )


def _rows(how: Operand) -> native.Rows | None:
    """How the kernel rounds inputs."""
    if how.spec.format == NVFP4:
        return native.Rows.BLOCKS
    ways = {Granularity.TOKEN: native.Rows.ROW, Granularity.TENSOR: native.Rows.TENSOR}
    return ways.get(how.spec.granularity) if isinstance(how.spec.format, IntFormat) else None


def _scale(w: Tensor, how: Operand) -> Tensor | None:
    """What outputs share of their scales, ``[outputs or 1, 1]``; None where they share none.

    Also none where it is too small to divide by, or not finite.
    """
    form = how.spec.format
    if isinstance(form, IntFormat):
        axes = integer.reduced_axes(w, how.spec.granularity, how.axes)
        scale = integer.scales(w, form, axes).scale if 1 in axes else None
    else:
        one = torch.ones(1, 1)
        scale = blockscale.decode_scale(one, w.abs().amax(), form) if form == NVFP4 else None
    if scale is None:
        return None
    usual = (scale >= SMALLEST) & (scale < torch.inf)
    return scale if bool(usual.all()) else None
