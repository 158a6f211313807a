"""Sums of powers about zero, which channels and tokens share: the shortest way over a tensor.

Each piece is squared, cubed and raised to the fourth power once, and what lies in cache then is
added up along both axes. Where the mean lies within 1.5 standard deviations of zero the central
moments follow from these sums with an error of a few 10⁻⁶ of their value. Channels and tokens that
lie further off, that are far smaller than the tensor, or that have NaN or infinite elements are
named, and left to the caller.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from qprobe.probes.summary_float32 import Piece
from qprobe.probes.summary_scratch import scratch

#: Largest magnitudes that need no scaling, and those that scaling brings to 1.
_AS_IS: Final = (2.0**-4, 2.0**15)
_SCALED: Final = (2.0**-60, 2.0**60)
#: The largest square of a channel or a token, after scaling, of which float32 holds all powers.
_TINY, _HUGE = 2.0**-50, 2.0**50
#: The mean square over the mean squared, where the mean is 1.5 standard deviations from zero.
_FAR: Final = 1.0 + 1.0 / 1.5**2
#: If more than one channel, or token, in so many has to be left out, the caller takes all of them.
_MANY_CHANNELS: Final = 4
_MANY_TOKENS: Final = 8
#: Tokens that are looked at first, about.
_FEW: Final = 64
_FIRST, _SECOND, _THIRD, _FOURTH, _TOP = range(5)
_NOTHING: Final = torch.empty(0, dtype=torch.int64)
_ZERO: Final = torch.zeros(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Powers:
    """What was found of channels and tokens; of those that were left out it means nothing."""

    #: ``[6, channels]``: n, mean, M2, M3, M4, absmax; float64.
    channels: Tensor
    #: Numbers of the channels that were left out.
    left: Tensor
    #: Mean square, largest magnitude and kurtosis of each token ``[3, tokens]``; float32, the first
    #: two times ``scale²`` and ``scale``.
    tokens: Tensor
    tokens_left: Tensor
    scale: float


def powers(x: Tensor, pieces: Sequence[Piece], largest: float) -> Powers | None:
    """Sums of ``[outer, channels, inner]``, cut into pieces; None where too many are left out.

    ``largest`` is about the largest magnitude, from an earlier tensor; 0 where there was none.
    """
    scale = _scale(largest or _largest(x))
    if scale is None or _off(x):
        return None
    n = x.shape[0] * x.shape[2]
    channels, tokens = _sums(pieces, n, scale)
    left = _left(channels, n, _MANY_CHANNELS)
    tokens_left = _left(tokens, x.shape[1], _MANY_TOKENS)
    if left is None or tokens_left is None:
        return None
    return Powers(
        channels=_moments(channels, n, scale),
        left=left,
        tokens=_of_tokens(tokens, x.shape[1]),
        tokens_left=tokens_left,
        scale=scale,
    )


def _scale(largest: float) -> float | None:
    """A power of two that brings the largest magnitude near 1; None if none is near enough."""
    if _AS_IS[0] <= largest < _AS_IS[1]:
        return 1.0
    return 2.0 ** -math.frexp(largest)[1] if _SCALED[0] <= largest < _SCALED[1] else None


def _largest(x: Tensor) -> float:
    low, high = torch.aminmax(x)
    return max(float(high), -float(low))


def _sums(pieces: Sequence[Piece], n: int, scale: float) -> tuple[Tensor, Tensor]:
    """Sums of the first four powers and the largest square: ``[5, channels]``, ``[5, tokens]``.

    Of channels in float64, of tokens in float32.
    """
    first, axis = pieces[0]
    parts = torch.empty(len(pieces), 5, first.shape[axis])
    tokens = torch.empty(5, n)
    sizes = [piece.shape[1 - along] for piece, along in pieces]
    for (piece, along), part, some in zip(
        pieces, parts, tokens.split_with_sizes(sizes, 1), strict=True
    ):
        _fill(piece, scale, ((1 - along, part.unbind()), (along, some.unbind())))
    channels = parts.sum(0, dtype=torch.float64)
    channels[_TOP] = parts[:, _TOP].amax(0)
    if scale != 1.0:
        channels[_FIRST].mul_(scale)
        tokens[_FIRST].mul_(scale)
    return channels, tokens


def _fill(x: Tensor, scale: float, sums: Sequence[tuple[int, Sequence[Tensor]]]) -> None:
    """Write sums of the first four powers and the largest square over each axis of ``sums``.

    Powers are of the values times ``scale``, but for the first.
    """
    wide, square, other = scratch(x)
    source = x if x.dtype == torch.float32 else wide.copy_(x)
    torch.addcmul(_ZERO, source, source, value=scale * scale, out=square)
    torch.addcmul(_ZERO, source, square, value=scale, out=other)
    for over, rows in sums:
        torch.sum(source, over, out=rows[_FIRST])
        torch.sum(square, over, out=rows[_SECOND])
        torch.amax(square, over, out=rows[_TOP])
        torch.sum(other, over, out=rows[_THIRD])
    square.mul_(square)
    for over, rows in sums:
        torch.sum(square, over, out=rows[_FOURTH])


def _off(x: Tensor) -> bool:
    """Whether a few tokens from all over show that the means of too many channels lie far off."""
    outer, _, inner = x.shape
    step = max(1, outer // _FEW)
    few = x[::step, :, :: max(1, inner * outer // (step * _FEW))].float()
    first, count = few.sum((0, 2)), few.shape[0] * few.shape[2]
    near = torch.addcmul((few * few).sum((0, 2)), first, first, value=-_FAR / count)
    return _MANY_CHANNELS * int(torch.count_nonzero(near < 0.0)) > len(near)


def _left(sums: Tensor, count: int, many: int) -> Tensor | None:
    """Numbers of those that float32 does not hold, or with a mean beyond 1.5 standard deviations.

    None if they are more than one in ``many``.
    """
    first, top = sums[_FIRST], sums[_TOP]
    near = torch.addcmul(sums[_SECOND], first, first, value=-_FAR / count)
    low, high = torch.aminmax(top)
    if float(near.min()) >= 0.0 and float(low) >= _TINY and float(high) <= _HUGE:
        return _NOTHING
    held = (near >= 0.0) & (top >= _TINY) & (top <= _HUGE)
    left = held.logical_not_().nonzero().flatten()
    return left if many * len(left) <= len(held) else None


def _moments(sums: Tensor, n: int, scale: float) -> Tensor:
    """n, mean, M2, M3, M4 and absmax of sums of powers ``[5, channels]``, without their scale."""
    found = sums.new_empty(6, sums.shape[1])
    s1, s2, s3, _, top = sums.unbind()
    found[0] = n
    mean = torch.div(s1, n, out=found[1])
    second, fourth = _even(sums, mean)
    found[2], found[4] = second, fourth
    # S3 − μ (3 S2 − 2 μ S1), where μ S1 = S2 − M2.
    torch.addcmul(s3, mean, torch.add(s2, second, alpha=2.0), value=-1.0, out=found[3])
    # The root of a square that float32 has rounded is the number itself, if taken in float32.
    found[5] = top.float().sqrt_()
    if scale != 1.0:
        found[1:].mul_(_without(scale))
    return found


def _even(sums: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """``M2 = S2 − μ S1`` and ``M4 = S4 − μ (4 S3 − μ (6 S2 − 3 μ S1))``; ``μ S1 = S2 − M2``."""
    s1, s2, s3, s4, _ = sums.unbind()
    second = torch.addcmul(s2, mean, s1, value=-1.0)
    inner = torch.addcmul(s3, mean, s2 + second, value=-0.75)
    return second, torch.addcmul(s4, mean, inner, value=-4.0)


@lru_cache(256)
def _without(scale: float) -> Tensor:
    """What mean, M2, M3, M4 and absmax of scaled values are multiplied by."""
    back = 1.0 / scale
    powers = [back, back**2, back**3, back**4, back]
    return torch.tensor(powers, dtype=torch.float64)[:, None]


def _of_tokens(sums: Tensor, n: int) -> Tensor:
    """Mean square, largest magnitude and kurtosis, of values times the scale."""
    found = torch.empty(3, sums.shape[1])
    second, fourth = _even(sums, sums[_FIRST] / n)
    torch.div(sums[_SECOND], n, out=found[0])
    torch.sqrt(sums[_TOP], out=found[1])
    torch.div(fourth.mul_(n), second.square_(), out=found[2])
    return found
