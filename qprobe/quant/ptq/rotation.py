"""Spread every input channel over a group of 32: quantize in a rotated basis.

``y = x·wᵀ = (x R)·(w R)ᵀ`` for any orthogonal R. A Hadamard matrix with random signs turns an
outlier channel into 32 channels of a 5.7th of its size, and noise of the quantizer comes back
spread as well.

Reference: Ashkboos et al. 2024, "QuaRot", sec. 3; MedQuanBench rotates groups of 32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.quant.products import Quantizer, Role
from qprobe.quant.ptq.applied import Applied, quantized_layer, with_quantizer
from qprobe.quant.ptq.channels import Channels
from qprobe.quant.quantize import Operand

LARGEST = 32


@dataclass(frozen=True, slots=True, eq=False)
class _Rotated:
    """Quantizes ``x R`` and ``w R``, and rotates them back."""

    base: Quantizer
    channels: Channels
    #: float64 ``[size, size]``, orthogonal.
    matrix: Tensor

    def __call__(
        self, x: Tensor, operand: Operand, role: Role, generator: torch.Generator | None
    ) -> Tensor:
        if role.gemm != "fprop":
            return self.base(x, operand, role, generator)
        axis = self._axis(role.operand)
        dtype = torch.promote_types(x.dtype, torch.float32)
        matrix = self.matrix.to(x.device, dtype)
        turned = _turn(x.to(dtype), matrix, axis)
        return _turn(self.base(turned, operand, role, generator), matrix.T, axis)

    def _axis(self, operand: str) -> int:
        if operand == "w":
            return self.channels.contraction
        return 2 if self.channels.conv else 1


def rotate(model: nn.Module, path: str, *, seed: int = 0) -> Applied:
    """Quantize the layer ``path`` in a rotated basis; no parameter changes.

    Groups have 32 channels, or the largest smaller power of two that divides the layer's input
    channels (of one group of a grouped convolution). State dicts are those of the plain model.
    """
    layer = quantized_layer(model, path)
    channels = Channels.of(layer, path)
    size = group_size(channels.per_group)
    if size == 1:
        raise InputError(
            f"{path} has {channels.per_group} input channels in a group, which no power of two "
            "divides; use smooth or svd there."
        )
    quantizer = _Rotated(layer.setup.quantizer, channels, hadamard(size, seed))
    return Applied("rotate", path, with_quantizer(layer, path, quantizer))


def group_size(channels: int) -> int:
    """The largest power of two up to 32 that divides ``channels``.

    >>> [group_size(channels) for channels in (64, 48, 12, 3)]
    [32, 16, 4, 1]
    """
    return min(LARGEST, channels & -channels)


def hadamard(size: int, seed: int) -> Tensor:
    """Sylvester's matrix of a power of two with the rows' signs drawn from ``seed``, over √size.

    >>> r = hadamard(8, seed=0)
    >>> torch.allclose(r @ r.T, torch.eye(8, dtype=torch.float64), atol=1e-15)
    True
    """
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    drawn = torch.randint(0, 2, (size, 1), generator=torch.Generator().manual_seed(seed))
    signed: Tensor = matrix * (2 * drawn - 1) / size**0.5
    return signed


def _turn(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    moved = x.movedim(axis, -1)
    grouped = moved.reshape(*moved.shape[:-1], -1, len(matrix)) @ matrix
    turned: Tensor = grouped.flatten(-2).movedim(-1, axis)
    return turned
