"""What the two transformers share: the pre-norm block and its parts."""

import torch
from torch import Tensor, nn

from qprobe.quant.attention import ScaledDotProduct

STD = 0.02


class StochasticDepth(nn.Module):
    """Drop a sample's residual branch with probability ``rate`` while training.

    What is kept is divided by ``1 − rate``, so the expectation is the branch itself.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Drop or rescale each sample of ``[B, ...]``."""
        if not self.training or self.rate == 0.0:
            return branch
        keep = 1.0 - self.rate
        drawn = branch.new_empty((branch.shape[0],) + (1,) * (branch.ndim - 1)).bernoulli_(keep)
        return branch * (drawn / keep)

    def extra_repr(self) -> str:
        """The rate, for ``print(model)``."""
        return f"rate={self.rate:g}"


class HeadedAttention(nn.Module):
    """The parts of multi-head attention: plain linears around a replaceable product."""

    def __init__(self, embed: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(embed, 3 * embed)
        self.product = ScaledDotProduct(dropout=dropout)
        self.proj = nn.Linear(embed, embed)
        self.drop = nn.Dropout(dropout)

    def attend(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend within each sequence of ``[sequences, tokens, embed]``."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        heads = self.product(q, k, v, bias)
        out: Tensor = self.drop(self.proj(heads.transpose(1, 2).flatten(2)))
        return out


class GlobalAttention(HeadedAttention):
    """Every token attends to every token."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend over tokens ``[B, N, embed]``."""
        return self.attend(x)


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, embed: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed, hidden)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, embed)
        self.drop2 = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token by itself."""
        out: Tensor = self.drop2(self.fc2(self.drop1(self.act(self.fc1(x)))))
        return out


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``, each with stochastic depth."""

    def __init__(self, attention: nn.Module, embed: int, hidden: int, rates: tuple[float, float]):
        super().__init__()
        dropout, drop_path = rates
        self.norm1 = nn.LayerNorm(embed)
        self.attn = attention
        self.norm2 = nn.LayerNorm(embed)
        self.mlp = Mlp(embed, hidden, dropout)
        self.depth = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens ``[B, N, embed]``."""
        x = x + self.depth(self.attn(self.norm1(x)))
        out: Tensor = x + self.depth(self.mlp(self.norm2(x)))
        return out


def depth_rates(depth: int, rate: float) -> list[float]:
    """Rates that grow linearly from 0 at the first block to ``rate`` at the last.

    >>> depth_rates(3, 0.1)
    [0.0, 0.05, 0.1]
    """
    return [rate * block / max(1, depth - 1) for block in range(depth)]


@torch.no_grad()
def initialize(model: nn.Module) -> None:
    """Truncated normal (std 0.02, cut at ±2) for linears and embeddings; biases zero, norms one.

    Convolutions keep PyTorch's own initialization.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=STD)
            nn.init.zeros_(module.bias)
        for name, parameter in module.named_parameters(recurse=False):
            if name.endswith(("embed", "token", "table")):
                nn.init.trunc_normal_(parameter, std=STD)
