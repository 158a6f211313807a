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
from qprobe.quant import blockscale
from qprobe.quant.formats import NVFP4, IntFormat
from qprobe.quant.quantize import Operand, on_grid
from qprobe.quant.rounding import Rounding
from qprobe.quant.spec import Granularity, QuantSpec, Tile
from qprobe.stats.codes import e2m1_values

#: Outputs that the kernel multiplies together, and inputs up to whose multiple rows are filled up.
PANEL = 32
LANES = 16


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

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """``x·wᵀ + bias`` of dense float32 ``x``."""
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
    """Whether the kernel is there and may be given the address of ``x``."""
    return (
        native.kernels is not None
        and native.kernels.multiplies_bfloat16()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and x.is_contiguous()
        and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


def pack(weight: Tensor, x: Operand, w: Operand) -> Packed | None:
    """A weight ``[outputs, inputs]`` for inputs that are rounded as ``x`` says.

    None where the kernel does not know the recipe: it rounds to nearest, unrotated, to NVFP4 or to
    integers of which a row or everything shares a scale.
    """
    form = _rows(x.spec)
    if form is None or x.hadamard or w.hadamard or not _known(w.spec) or not usable(weight):
        return None
    exact, scale = _exact(weight, w)
    outputs, inputs = weight.shape
    filled = exact.new_zeros(-(-outputs // PANEL) * PANEL, -(-inputs // LANES) * LANES)
    filled[:outputs, :inputs] = exact
    pairs = filled.view(-1, PANEL, filled.shape[1] // 2, 2).transpose(1, 2)
    kind = x.spec.format
    return Packed(
        weight=pairs.bfloat16().contiguous(),
        scale=scale.expand(outputs, 1).flatten().contiguous(),
        shape=(outputs, inputs),
        form=form,
        largest=kind.largest if isinstance(kind, IntFormat) else 0,
    )


def _rows(spec: QuantSpec) -> native.Rows | None:
    """How the kernel rounds inputs under a spec."""
    if spec.format == NVFP4:
        plain = spec.rounding is Rounding.NEAREST_EVEN and spec.tile is Tile.ONE_D
        return native.Rows.BLOCKS if plain else None
    if not isinstance(spec.format, IntFormat):
        return None
    ways = {Granularity.TOKEN: native.Rows.ROW, Granularity.TENSOR: native.Rows.TENSOR}
    return ways.get(spec.granularity)


def _known(spec: QuantSpec) -> bool:
    """Whether a rounded weight is bfloat16 numbers times a scale of each output."""
    if isinstance(spec.format, IntFormat):
        return spec.granularity in {Granularity.CHANNEL, Granularity.TENSOR}
    return spec.format == NVFP4 and spec.rounding is Rounding.NEAREST_EVEN


def _exact(weight: Tensor, w: Operand) -> tuple[Tensor, Tensor]:
    """Numbers of at most seven significant bits, and what they are multiplied with."""
    grid = on_grid(weight, w, None)
    if isinstance(grid.form, IntFormat):
        return grid.codes, grid.scale.reshape(-1, 1)
    stored = grid.scale.repeat_interleave(grid.form.block, 1)[:, : grid.codes.shape[1]]
    values = e2m1_values(grid.codes).mul_(stored).view(weight.shape)
    one = torch.ones(1, 1)
    return values, blockscale.decode_scale(one, weight.abs().amax(), grid.form)
