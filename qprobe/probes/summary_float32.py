"""Sums over a tensor in float32 with PyTorch, in pieces that stay in cache.

Each piece is gone through by few operations that write where the result belongs; what has to be
computed of the sums is computed of all pieces at once, in float64. Pieces whose fourth powers
float32 does not hold, and those with NaN or infinite elements, are named and left to the caller.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from qprobe.probes.summary_scratch import scratch

#: Float32 holds the fourth powers of what has at least this magnitude and variance after scaling.
_TINY, _FLAT = 2.0**-30, 2.0**-56
#: Rows of the sums of channels and of tokens; those of channels are where moments have n, mean,
#: M2, M3, M4 and absmax.
_PIVOT, _REST, _SECOND, _THIRD, _FOURTH, _LARGEST = range(6)
_MEAN, _TOKEN_SECOND, _TOKEN_FOURTH, _TOKEN_LARGEST = range(4)

#: Whole tokens, and which axis of the matrix the channels are.
Piece = tuple[Tensor, int]


class Sums(NamedTuple):
    """What was found of some pieces; powers are of values times a piece's scale."""

    #: Numbers of the pieces that are left out of everything else.
    failed: list[int]
    #: ``[6, pieces, channels]``: n, mean, M2, M3, M4, absmax; float64.
    channels: Tensor
    #: Of each token mean, second and fourth sum about it and absmax ``[4, tokens]``, float64, and
    #: the scale of the first three: one for all, or one a token.
    tokens: Tensor
    scales: Tensor


def sums(pieces: Sequence[Piece]) -> Sums:
    """Sums of pieces that have the same channels."""
    first, axis = pieces[0]
    sizes = [piece.shape[1 - axis] for piece, axis in pieces]
    channels = torch.zeros(6, len(pieces), first.shape[axis])
    tokens = torch.zeros(4, sum(sizes))
    scales, begin = [], 0
    for number, ((piece, along), size) in enumerate(zip(pieces, sizes, strict=True)):
        scales.append(_fill(piece, along, channels[:, number], tokens[:, begin : begin + size]))
        begin += size
    if not _plain(channels, tokens, max(sizes), min(scales)):
        return _with_failures(channels, tokens, sizes, scales)
    of_tokens = torch.tensor(scales[:1], dtype=torch.float64)
    if min(scales) < max(scales):
        of_tokens = torch.tensor(scales).double().repeat_interleave(torch.tensor(sizes))
    return Sums([], _moments(channels, sizes, scales), tokens.double(), of_tokens)


def _with_failures(channels: Tensor, tokens: Tensor, sizes: list[int], scales: list[float]) -> Sums:
    """The same, where float32 may not hold all of them."""
    counts = torch.tensor(sizes)
    of_tokens = torch.tensor(scales).repeat_interleave(counts)
    failed = _failed(channels, tokens, of_tokens, (sizes, scales))
    kept = torch.ones(len(sizes), dtype=torch.bool)
    kept[failed] = False
    there = kept.repeat_interleave(counts)
    numbers = kept.nonzero().flatten().tolist()
    moments = _moments(channels[:, kept], [sizes[n] for n in numbers], [scales[n] for n in numbers])
    return Sums(failed, moments, tokens[:, there].double(), of_tokens[there].double())


def sums_of_channels(rows: Tensor) -> Tensor | None:
    """``[6, channels]`` as in :attr:`Sums.channels` of channels that are rows, without tokens.

    None where float32 does not hold all of them.
    """
    channels = torch.zeros(6, 1, len(rows))
    wide, spare, power = scratch(rows)
    source = rows if rows.dtype == torch.float32 else wide.copy_(rows)
    torch.amax(torch.abs(source, out=spare), 1, out=channels[_LARGEST, 0])
    scale = _scale(channels[_LARGEST, 0])
    if scale == 0.0:
        return None
    if scale != 1.0:
        source = torch.mul(source, scale, out=wide)
    _fill_channels(source, 0, channels[:, 0], (spare, power))
    n = rows.shape[1]
    if _too_small(channels[_LARGEST] * scale, channels[_SECOND] / n).any():
        return None
    return _moments(channels, [n], [scale])[:, 0]


def _fill(x: Tensor, axis: int, channels: Tensor, tokens: Tensor) -> float:
    """Write the sums of one piece; gives the scale, 0 where there is nothing for float32 to do."""
    wide, spare, power = scratch(x)
    source = x if x.dtype == torch.float32 else wide.copy_(x)
    torch.abs(source, out=spare)
    torch.amax(spare, 1 - axis, out=channels[_LARGEST])
    torch.amax(spare, axis, out=tokens[_TOKEN_LARGEST])
    scale = _scale(channels[_LARGEST])
    if scale == 0.0:
        return 0.0
    if scale != 1.0:
        source = torch.mul(source, scale, out=wide)
    mean = torch.mean(source, axis, keepdim=True, out=tokens[_MEAN].unsqueeze(axis))
    torch.mul(torch.sub(source, mean, out=spare), spare, out=power)
    torch.sum(power, axis, out=tokens[_TOKEN_SECOND])
    torch.sum(power.mul_(power), axis, out=tokens[_TOKEN_FOURTH])
    _fill_channels(source, axis, channels, (spare, power))
    return scale


def _fill_channels(
    source: Tensor, axis: int, channels: Tensor, memory: tuple[Tensor, Tensor]
) -> None:
    """Write what is summed over tokens."""
    spare, power = memory
    # The first token is taken off before the mean is: a constant channel then is exactly zero.
    pivot = channels[_PIVOT].copy_(source.select(1 - axis, 0)).unsqueeze(1 - axis)
    torch.sub(source, pivot, out=spare)
    rest = torch.mean(spare, 1 - axis, keepdim=True, out=channels[_REST].unsqueeze(1 - axis))
    torch.mul(spare.sub_(rest), spare, out=power)
    torch.sum(power, 1 - axis, out=channels[_SECOND])
    torch.sum(spare.mul_(power), 1 - axis, out=channels[_THIRD])
    torch.sum(power.mul_(power), 1 - axis, out=channels[_FOURTH])


def _scale(largest: Tensor) -> float:
    """A power of two that brings magnitudes near 1; 0 where all is zero or some is not finite."""
    top = float(largest.max())
    if not 0.0 < top < math.inf:
        return 0.0
    return 1.0 if 2.0**-10 <= top < 2.0**21 else 2.0 ** -math.frexp(top)[1]


def _plain(channels: Tensor, tokens: Tensor, most: int, scale: float) -> bool:
    """Whether everything is far from what float32 does not hold: a quick look at the smallest."""
    return (
        float(channels[_LARGEST].min()) * scale >= _TINY
        and float(tokens[_TOKEN_LARGEST].min()) * scale >= _TINY
        and float(channels[_SECOND].min()) >= _FLAT * most
        and float(tokens[_TOKEN_SECOND].min()) >= _FLAT * channels.shape[-1]
    )


def _failed(
    channels: Tensor, tokens: Tensor, of_tokens: Tensor, pieces: tuple[list[int], list[float]]
) -> list[int]:
    """Pieces with a channel or a token that float32 does not hold."""
    elements, scale = (torch.tensor(one, dtype=torch.float32)[:, None] for one in pieces)
    small = _too_small(channels[_LARGEST] * scale, channels[_SECOND] / elements).any(1)
    also = _too_small(
        tokens[_TOKEN_LARGEST] * of_tokens, tokens[_TOKEN_SECOND] / channels.shape[-1]
    )
    of_their_tokens = torch.stack([part.any() for part in also.split_with_sizes(pieces[0])])
    return (small | of_their_tokens | (scale[:, 0] == 0)).nonzero().flatten().tolist()


def _too_small(largest: Tensor, variance: Tensor) -> Tensor:
    return ((largest < _TINY) & (largest > 0)) | ((variance < _FLAT) & (variance > 0))


def _moments(channels: Tensor, sizes: list[int], scales: list[float]) -> Tensor:
    """``[6, pieces, channels]`` from what :func:`_fill` wrote."""
    found = channels.double()
    found[_REST] += found[_PIVOT]
    found[_PIVOT] = torch.tensor(sizes, dtype=torch.float64)[:, None]
    if any(scale != 1.0 for scale in scales):
        powers = torch.arange(1, 5)[:, None, None]
        found[_REST : _FOURTH + 1] *= (1.0 / torch.tensor(scales).double())[:, None] ** powers
    return found
