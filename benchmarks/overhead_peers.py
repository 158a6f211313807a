"""What others compute of a tensor, written anew in plain PyTorch, to be timed on the same tensors.

Nothing of their code runs here: what a library does per tensor was read and is done again without
its logging, its network and, for Transformer Engine, its CUDA kernels.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

_GRID = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
_EDGES = (_GRID[1:] + _GRID[:-1]) / 2
_TINY = 2.0**-40


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).float()


def moments(x: Tensor, axis: int | None) -> list[Tensor]:
    """Mean, deviation, skewness, kurtosis, largest magnitude and zeros, as one writes them."""
    over = tuple(range(x.dim())) if axis is None else (axis,)
    mean, std = x.mean(over, keepdim=True), x.std(over, keepdim=True)
    z = (x - mean) / std
    return [(z**3).mean(over), (z**4).mean(over), x.abs().amax(over), (x == 0).sum(over)]


def nvfp4(x: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error and underflow in blocks of 16."""
    blocks = x.reshape(-1, 16)
    scale = 2688.0 / x.abs().amax().clamp_min(_TINY)
    block = (blocks.abs().amax(1, keepdim=True) / 6 * scale).to(torch.float8_e4m3fn).float() / scale
    y = blocks.abs() / block.clamp_min(_TINY)
    values = _GRID[torch.bucketize(y, _EDGES)] * block * blocks.sign()
    return (values - blocks).square().sum(), ((values == 0) & (blocks != 0)).sum()


def int4(x: Tensor) -> Tensor:
    """Squared error with one scale a token."""
    scale = x.abs().amax(1, keepdim=True).clamp_min(_TINY) / 7
    return ((x / scale).round() * scale - x).square().sum()


def naive(x: Tensor) -> None:
    """The set that qprobe measures, on all rows."""
    rows = _rows(x)
    for axis in (None, 0, 1):
        moments(rows, axis)
    torch.histc(torch.log2(rows.abs().clamp_min(_TINY)), 64, -40, 24)
    if not rows.shape[1] % 16:
        nvfp4(rows)
        int4(rows)


def transformer_engine(x: Tensor) -> None:
    """``LogTensorStats`` and ``LogNvfp4TensorStats``: each statistic a pass of its own, once."""
    rows = _rows(x)
    _ = rows.min(), rows.max(), rows.mean(), rows.std()
    _ = rows.abs().sum(), rows.square().sum().sqrt(), rows.abs().amax()
    there = rows[rows != 0].abs()
    _ = there.amax().log2() - there.amin().log2() if there.numel() else None
    if not rows.shape[1] % 16:
        nvfp4(rows)


def weights_and_biases(x: Tensor) -> object:
    """``wandb.watch``: a histogram of 64 bins between the smallest and the largest finite value."""
    flat = x.detach().clone().reshape(-1).float()
    if not bool(torch.isfinite(flat).any()):
        return None
    if not bool(torch.isfinite(flat).all()):
        flat = flat[torch.isfinite(flat)]
    low, high = flat.min().item(), flat.max().item()
    return flat.histc(64, low, high).tolist() if low < high else None


PEERS: Final[dict[str, Callable[[Tensor], object]]] = {
    "plain PyTorch, the same set": naive,
    "Transformer Engine's statistics": transformer_engine,
    "W&B's histogram": weights_and_biases,
}
