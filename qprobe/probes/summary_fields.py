"""Where the parts of a summary stand in its one buffer."""

from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import torch
from torch import Tensor

from qprobe.stats.histogram import MAGNITUDES, QuarterOctaves

#: Edges of the token histograms: mean square, largest magnitude, kurtosis (never below 1).
MEAN_SQUARE: Final = QuarterOctaves(first=-80, octaves=128)
LARGEST: Final = QuarterOctaves(first=-40, octaves=64)
KURTOSIS: Final = QuarterOctaves(first=0, octaves=16)
_TOKENS = (MEAN_SQUARE.bins + 1, LARGEST.bins + 1, KURTOSIS.bins + 1, 1)
_FLOATS = (3, 1)
_COUNTS = (2, MAGNITUDES + 3, 5)
_INTEGERS = sum(_TOKENS) + sum(_COUNTS)
_MOMENTS = 6


def words(channels: int) -> int:
    """Words of eight bytes that a summary of so many channels takes."""
    return _MOMENTS * channels + sum(_FLOATS) + _INTEGERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Views of a summary's buffer; writing to them writes to the summary."""

    #: ``[6, channels]``: n, mean, M2, M3, M4, absmax; float64.
    channels: Tensor
    #: Sums over sampled tokens: Σx², Σ(x̂−x)² of NVFP4, of INT4; float64.
    energy: Tensor
    #: The largest magnitude seen, by which NVFP4 scales the next tensor; float64[1].
    reference: Tensor
    #: Three histograms of tokens, and how many tokens had NaN or infinite elements; int64.
    tokens: Tensor
    #: NaN and infinite elements of whole tensors; int64[2].
    nonfinite: Tensor
    #: :class:`~qprobe.stats.histogram.MagnitudeHistogram` of the sampled tokens; int64.
    magnitudes: Tensor
    #: Of the sampled elements: all, not zero, lost and saturated in NVFP4, lost in INT4; int64[5].
    counts: Tensor

    @classmethod
    def of(cls, buffer: Tensor, channels: int) -> Self:
        """The views of a float64 buffer of :func:`words` elements."""
        words_of = (_MOMENTS * channels, *_FLOATS, _INTEGERS)
        moments, energy, reference, integers = buffer.split_with_sizes(words_of)
        tokens, nonfinite, magnitudes, counts = integers.view(torch.int64).split_with_sizes(
            (sum(_TOKENS), *_COUNTS)
        )
        return cls(
            channels=moments.view(_MOMENTS, channels),
            energy=energy,
            reference=reference,
            tokens=tokens,
            nonfinite=nonfinite,
            magnitudes=magnitudes,
            counts=counts,
        )

    def token_histograms(self) -> "TokenHistograms":
        """The token part, cut up."""
        return TokenHistograms.of(self.tokens)


class TokenHistograms(NamedTuple):
    """Counts of tokens; the last entry of each histogram counts tokens without a value."""

    #: Mean of x² over channels, all-zero tokens last.
    mean_square: Tensor
    #: Largest magnitude, all-zero tokens last.
    largest: Tensor
    #: Kurtosis over channels, constant tokens last.
    kurtosis: Tensor
    #: Tokens with NaN or infinite elements, which are in no histogram; int64[1].
    nonfinite: Tensor

    @classmethod
    def of(cls, tokens: Tensor) -> Self:
        """Views of :attr:`Fields.tokens`, or of several of them ``[..., size]``."""
        return cls(*tokens.split_with_sizes(_TOKENS, -1))


class Sample(NamedTuple):
    """Tokens ``offset``, ``offset + stride``, ... are sampled."""

    stride: int
    offset: int
