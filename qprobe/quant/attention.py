"""The two products of attention, as a module that :func:`qprobe.quant.convert` can quantize."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprobe.quant import attention_native
from qprobe.quant.products import Role, Setup, without_autocast
from qprobe.quant.quantize import Operand, StraightThrough
from qprobe.quant.recipe import Gemm, QuantRecipe
from qprobe.quant.spec import QuantSpec


class ScaledDotProduct(nn.Module):
    """``softmax(q·kᵀ·scale + bias)·v`` over the last two axes, as a module of its own.

    ``q``, ``k``, ``v`` are ``[..., heads, tokens, head_dim]``; ``bias`` is added to the logits and
    broadcasts against ``[..., heads, queries, keys]``. ``scale`` defaults to ``head_dim ** -0.5``.
    """

    #: Whether the kernel of :mod:`qprobe.quant.attention_native` may attend where nobody asks for
    #: gradients: it is quicker, and rounds otherwise than PyTorch.
    by_kernel = False

    def __init__(self, scale: float | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = dropout

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend."""
        dropout = self.dropout if self.training else 0.0
        if (
            self.by_kernel
            and not dropout
            and _plainly(q)
            and attention_native.usable(q, k, v, bias)
        ):
            scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
            return attention_native.attend(q, k, v, bias, scale)
        out: Tensor = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=dropout, scale=self.scale
        )
        return out


class QuantizedScaledDotProduct(ScaledDotProduct):
    """The same with quantized products, computed in float32.

    q and k are quantized along the head's channels, probabilities and v along the keys: the axes
    that ``q·kᵀ`` and ``p·v`` sum over. Gradients pass straight through the quantizers.
    """

    setup: Setup

    @property
    def recipe(self) -> QuantRecipe:
        """The recipe in force here."""
        return self.setup.recipe

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend."""
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        with without_autocast(q.device):
            q32, k32, v32 = q.float(), k.float(), v.float()
            logits = self._take(q32, "q", -1) @ self._take(k32, "k", -1).mT
            logits = logits * scale
            if bias is not None and bias.dtype is torch.bool:
                logits = logits.masked_fill(~bias, -torch.inf)
            elif bias is not None:
                logits = logits + bias
            # A query that may look nowhere attends to nothing, as in PyTorch's own products; left
            # as NaN it would reach all others through the scale that they share.
            nowhere = logits.detach().amax(-1, keepdim=True) == -torch.inf
            p = logits.masked_fill(nowhere, 0.0).softmax(-1).masked_fill(nowhere, 0.0)
            p = F.dropout(p, self.dropout, self.training)
            out = self._take(p, "p", -1) @ self._take(v32, "v", -2)
            return out.to(q.dtype)

    def extra_repr(self) -> str:
        """The recipe's name."""
        return f"recipe={self.recipe.name}"

    def _take(self, x: Tensor, operand: str, axis: int) -> Tensor:
        """An operand as its product sees it; the gradient passes straight through."""
        gemm = self.recipe.attention or Gemm()
        how = gemm.a if operand in ("q", "p") else gemm.b
        if not isinstance(how, QuantSpec):
            return x
        plan = Operand(axes=axis, spec=how, hadamard=gemm.hadamard)
        role = Role("attention", operand)
        values = self.setup.quantizer(x.detach(), plan, role, self.setup.generator)
        return StraightThrough.over(x, values)


def _plainly(x: Tensor) -> bool:
    """Whether the product is taken as it is: no gradients, and nothing is cast."""
    return not (torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type))


@contextmanager
def attending_by_kernel(modules: Iterable[nn.Module]) -> Iterator[None]:
    """The attentions among these in evaluation: high precision by the kernel inside."""
    chosen = [module for module in modules if isinstance(module, ScaledDotProduct)]
    chosen = [module for module in chosen if not module.by_kernel]
    try:
        for module in chosen:
            module.by_kernel = True
        yield
    finally:
        for module in chosen:
            del module.by_kernel
