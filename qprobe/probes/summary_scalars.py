"""The numbers that are read from the fields of a summary; what has no value is not among them."""

from typing import Final

import torch
from torch import Tensor

from qprobe.probes.summary_fields import KURTOSIS, LARGEST, MEAN_SQUARE, TokenHistograms
from qprobe.stats.moments import Moments

QUANTILES: Final = {"median": 0.5, "p90": 0.9, "p99": 0.99}
_CUTS: Final = {**QUANTILES, "max": 1.0}


def of_tensor(channels: Moments) -> dict[str, Tensor]:
    """Moments of the whole tensor, from those of its channels."""
    tensor = channels.total()
    found = {}
    if tensor.n > 0:
        found = {"mean": tensor.mean, "std": tensor.std()[0], "absmax": tensor.absmax}
    if bool(tensor.spread):
        found |= {"skewness": tensor.skewness()[0], "kurtosis": tensor.kurtosis()[0]}
    return found


def over_channels(name: str, values: Tensor) -> dict[str, Tensor]:
    """Median, p90, p99 and max of one value a channel."""
    if not values.numel():
        return {}
    cuts = torch.tensor([*_CUTS.values()], dtype=torch.float64, device=values.device)
    return {
        f"{name}_{cut}": value
        for cut, value in zip(_CUTS, values.double().quantile(cuts), strict=True)
    }


def of_tokens(tokens: TokenHistograms) -> dict[str, Tensor]:
    """How many tokens there were, and quantiles of their histograms, within 12 %."""
    squares, largest, kurtosis, nonfinite = tokens
    parts = {
        "token_mean_square": (squares, MEAN_SQUARE),
        "token_absmax": (largest, LARGEST),
        "token_kurtosis": (kurtosis, KURTOSIS),
    }
    found = {
        "tokens": (squares.sum() + nonfinite[0]).double(),
        "tokens_zero": squares[-1].double(),
        "tokens_constant": kurtosis[-1].double(),
        "tokens_nonfinite": nonfinite[0].double(),
    }
    for name, (counts, edges) in parts.items():
        values = {cut: edges.quantile(counts, q) for cut, q in QUANTILES.items()}
        values["max"] = edges.largest(counts)
        for cut, value in values.items():
            if value is not None:
                found[f"{name}_{cut}"] = torch.tensor(value, dtype=torch.float64)
    return found
