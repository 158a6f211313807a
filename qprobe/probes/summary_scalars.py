"""The numbers that are read from the fields of summaries, many of them at once.

Every function takes fields of several summaries, stacked and in the host's memory, and gives one
value a summary and whether it exists.
"""

from typing import Final

import torch
from torch import Tensor

from qprobe.probes.summary_fields import KURTOSIS, LARGEST, MEAN_SQUARE, TokenHistograms
from qprobe.stats.moments import Moments

QUANTILES: Final = {"median": 0.5, "p90": 0.9, "p99": 0.99}
_CUTS: Final = {**QUANTILES, "max": 1.0}

Values = dict[str, tuple[Tensor, Tensor]]


def of_tensor(channels: Tensor) -> Values:
    """Moments of whole tensors, from those of their channels ``[summaries, 6, channels]``."""
    tensor = Moments.unpack(channels.movedim(1, 0)).whole()
    some, spread = tensor.n > 0, tensor.spread
    n, m2 = tensor.n.clamp(min=1), torch.where(spread, tensor.m2, 1.0)
    return {
        "n": (tensor.n, torch.ones_like(some)),
        "mean": (tensor.mean, some),
        "std": ((tensor.m2 / n).sqrt(), some),
        "absmax": (tensor.absmax, some),
        "skewness": ((tensor.m3 / m2) * (n / m2).sqrt(), spread),
        "kurtosis": (n * (tensor.m4 / m2) / m2, spread),
    }


def kurtosis_of_channels(channels: Tensor) -> tuple[Tensor, Tensor]:
    """Kurtosis of each channel and which have one, ``[summaries, channels]``."""
    n, _, m2, _, m4, _ = channels.unbind(1)
    there = m2 > 0
    safe = torch.where(there, m2, 1.0)
    return n * (m4 / safe) / safe, there


def over_channels(name: str, values: Tensor, there: Tensor) -> Values:
    """Median, p90, p99 and max of the channels' values that are ``there``."""
    count = there.sum(-1)
    ranked = values.masked_fill(~there, torch.inf)
    ranked.numpy().sort(-1)  # with vector instructions, which PyTorch does not use on a CPU
    last = (count - 1).clamp(min=0)
    found = {}
    for cut, share in _CUTS.items():
        place = last * share
        low = place.floor().long()
        below, above = (
            ranked.gather(-1, torch.minimum(i, last)[:, None])[:, 0] for i in (low, low + 1)
        )
        value = torch.where(above > below, below + (above - below) * (place - low), below)
        found[f"{name}_{cut}"] = (value, count > 0)
    return found


def of_tokens(tokens: Tensor) -> Values:
    """How many tokens there were, and quantiles of their histograms ``[summaries, ...]``."""
    squares, largest, kurtosis, nonfinite = TokenHistograms.of(tokens)
    every = torch.ones(len(tokens), dtype=torch.bool)
    parts = {
        "token_mean_square": (squares, MEAN_SQUARE),
        "token_absmax": (largest, LARGEST),
        "token_kurtosis": (kurtosis, KURTOSIS),
    }
    found = {
        "tokens": ((squares.sum(-1) + nonfinite[..., 0]).double(), every),
        "tokens_zero": (squares[..., -1].double(), every),
        "tokens_constant": (kurtosis[..., -1].double(), every),
        "tokens_nonfinite": (nonfinite[..., 0].double(), every),
    }
    for name, (counts, edges) in parts.items():
        ranked = edges.quantiles(counts, tuple(QUANTILES.values())).unbind(-1)
        values = dict(zip(QUANTILES, ranked, strict=True))
        values["max"] = edges.highest(counts)
        found |= {f"{name}_{cut}": (value, ~value.isnan()) for cut, value in values.items()}
    return found
