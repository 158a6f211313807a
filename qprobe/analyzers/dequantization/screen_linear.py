"""A linear layer in a screen: its forward product as in evaluation, the others in bfloat16.

Screen values are of first order and sums over thousands of products, so that eight bits of each
operand, rounded without a bias, change them far less than one part in a hundred; processors that
multiply bfloat16 take a third of the time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qprobe.quant.linear_native import Packed
from qprobe.quant.products import Kernel, LinearKernel, Setup, fprop_weight
from qprobe.quant.remembering import Remembering

#: Takes an operand, a gradient and what the operand changes, of one shape.
Add = Callable[[str, Tensor, Tensor], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weights:
    """A layer's weight: as the kernel reads it, rounded, and what rounding took away."""

    packed: Packed
    #: bfloat16 ``[outputs, inputs]``.
    rounded: Tensor
    error: Tensor


def weights_of(w: Tensor, kernel: Kernel, setup: Setup) -> Weights | None:
    """None where no kernel computes the forward product."""
    quantizer = setup.quantizer
    if not isinstance(quantizer, Remembering) or not isinstance(kernel, LinearKernel):
        return None
    packed = quantizer.packed(w, kernel, setup)
    if packed is None:
        return None
    w_q = fprop_weight(w, kernel, setup)
    error = w.detach() - w_q
    return Weights(packed=packed, rounded=w_q.bfloat16(), error=error.bfloat16())


class ScreenedLinear(torch.autograd.Function):
    """``x_q·w_qᵀ + bias``; backward the chain rule through it, and the inner products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, x_q: Tensor, weights: Weights, *rest: Any) -> Tensor:
        """Takes also what adds inner products up, and the bias."""
        ctx.add, bias = rest
        ctx.x, ctx.x_q, ctx.weights = x.detach(), x_q, weights
        return weights.packed.multiply(x.contiguous(), bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """dx."""
        x, x_q, weights, add = ctx.x, ctx.x_q, ctx.weights, ctx.add
        rounded = g.bfloat16()
        outputs, inputs = weights.error.shape
        if outputs < inputs:  # the same sum, over fewer numbers
            add("w", g, x_q.bfloat16() @ weights.error.T)
        else:
            add("w", rounded @ weights.error, x_q)
        dx = (rounded @ weights.rounded).to(x.dtype)
        add("x", dx, x - x_q)
        return dx, None, None, None, None
