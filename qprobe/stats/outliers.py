"""Where outliers sit: in some channels, or at some places."""

import torch
from torch import Tensor

from qprobe.errors import InputError


def outlier_pattern(channels: Tensor, tokens: Tensor) -> Tensor:
    """``median ln k_channel / median ln k_token``: below 1 channel-wise, above 1 spatial outliers.

    ``channels`` is the kurtosis of each channel over tokens (or voxels) and ``tokens`` that of each
    token over channels, one dimension each, E[(x−μ)⁴]/σ⁴ ≥ 1 (normal = 3). A channel far larger
    than the rest makes every *token* heavy-tailed and leaves the channels themselves as they were,
    so the ratio falls below 1, as in language models: scales by channel would help. A few large
    places make every *channel* heavy-tailed, so the ratio rises above 1, as in medical images:
    scales by token or voxel would help. Normal numbers give 1.

    Without dimension, float64. NaN where either is empty, and where the median token has kurtosis
    1. Kurtosis of few numbers is biased low (at most n − 2 + 1/(n − 1)), which moves the ratio
    whatever the data: of normal numbers with 3 channels it is 2.7, with 16 channels and many tokens
    1.2, with 64 1.06.

    Reference: our own ratio of the two medians that MedQuanBench compares.

    >>> channel_wise = outlier_pattern(torch.tensor([3.0, 3.0]), torch.tensor([9.0, 9.0, 9.0]))
    >>> round(channel_wise.item(), 4)  # ln 3 / ln 9
    0.5
    >>> outlier_pattern(torch.tensor([9.0]), torch.tensor([3.0, 9.0, 3.0])).item()
    2.0
    """
    for name, values in (("channels", channels), ("tokens", tokens)):
        if values.dim() != 1:
            raise InputError(
                f"the kurtosis of {name} is one number each, in one dimension; got a tensor of "
                f"{list(values.shape)}."
            )
    if not channels.numel() or not tokens.numel():
        return torch.full((), torch.nan, dtype=torch.float64, device=channels.device)
    above, below = (values.double().log().quantile(0.5) for values in (channels, tokens))
    return of_medians(above, below)


def of_medians(channels: Tensor, tokens: Tensor) -> Tensor:
    """The pattern from medians of ln kurtosis; NaN where the median token has kurtosis 1."""
    return torch.where(tokens > 0, channels / torch.where(tokens > 0, tokens, 1.0), torch.nan)
