"""What a layer under a recipe computes in one call: its product and its bias."""

import torch
from torch import Tensor

from qprobe.quant import linear_native
from qprobe.quant.products import Kernel, Products, Setup, differentiable
from qprobe.quant.remembering import Remembering


def multiply(x: Tensor, w: Tensor, bias: Tensor | None, kernel: Kernel, setup: Setup) -> Tensor:
    """``x·wᵀ + bias``; the bias is shaped to broadcast.

    Without gradients the forward product is all there is to do, with the same bits. Where the
    weight is remembered, which is in evaluation, a linear layer is one call of a kernel, whose sums
    round otherwise.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        y: Tensor = differentiable(x, w, kernel, setup)
        return y if bias is None else y + bias
    if isinstance(setup.quantizer, Remembering) and kernel.linear:
        given = [x] if bias is None else [x, bias]
        usable = all(linear_native.usable(one) for one in given)
        packed = setup.quantizer.packed(w, kernel, setup) if usable else None
        if packed is not None:
            return packed.multiply(*(one.contiguous() for one in given))
    y = Products(x=x, w=w, kernel=kernel, setup=setup).fprop()
    if bias is None:
        return y
    return y + bias if bias.dtype != y.dtype else y.add_(bias)  # nobody else has seen the product
