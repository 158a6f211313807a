"""A quantizer for evaluation, where weights do not change."""

import torch
from torch import Tensor

from qprobe.quant import linear_native
from qprobe.quant.products import LinearKernel, Quantizer, Role, Setup, faithful, operand_of
from qprobe.quant.quantize import Operand


class Remembering:
    """Quantizes a layer's weight for fprop once; for one layer, whose weight never changes.

    Costs one copy of the weight, and half a one where a kernel multiplies it (:meth:`linear`).
    """

    def __init__(self, quantizer: Quantizer) -> None:
        self._quantizer = quantizer
        self._weight: Tensor | None = None
        self._packed: linear_native.Packed | None = None
        self._asked = False

    def __call__(
        self, x: Tensor, operand: Operand, role: Role, generator: torch.Generator | None
    ) -> Tensor:
        if (role.gemm, role.operand) != ("fprop", "w"):
            return self._quantizer(x, operand, role, generator)
        if self._weight is None:
            self._weight = self._quantizer(x, operand, role, generator)
        return self._weight

    def linear(self, x: Tensor, w: Tensor, bias: Tensor | None, setup: Setup) -> Tensor | None:
        """``x·wᵀ + bias`` of a linear layer by a kernel; None where there is none for it.

        The same numbers as :func:`~qprobe.quant.products.multiply` but for the rounding of sums.
        Nothing is cast and no gradient kept.
        """
        if self._quantizer is not faithful or torch.is_grad_enabled():
            return None
        dense = x.contiguous()
        if not linear_native.usable(dense) or torch.is_autocast_enabled("cpu"):
            return None
        if not self._asked:
            self._asked, self._packed = True, _pack(w.detach(), setup)
        return None if self._packed is None else self._packed.multiply(dense, bias)


def _pack(w: Tensor, setup: Setup) -> linear_native.Packed | None:
    kernel = LinearKernel(w)
    rows = w.new_empty(0, w.shape[1])
    x_how, w_how = (
        operand_of(operand, Role("fprop", name), kernel, setup.recipe)
        for name, operand in (("x", rows), ("w", w))
    )
    if x_how is None or w_how is None:
        return None
    return linear_native.pack(w, x_how[1], w_how[1])
