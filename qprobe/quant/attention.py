"""The two products of attention, as a module that :func:`qprobe.quant.convert` can quantize."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ScaledDotProduct(nn.Module):
    """``softmax(q·kᵀ·scale + bias)·v`` over the last two axes, as a module of its own.

    ``q``, ``k``, ``v`` are ``[..., heads, tokens, head_dim]``; ``bias`` is added to the logits and
    broadcasts against ``[..., heads, queries, keys]``. ``scale`` defaults to ``head_dim ** -0.5``.
    """

    def __init__(self, scale: float | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = dropout

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend."""
        dropout = self.dropout if self.training else 0.0
        out: torch.Tensor = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=dropout, scale=self.scale
        )
        return out
