"""Histograms with fixed edges: counts of two of them add."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Self

import torch
from torch import Tensor

from qprobe.errors import InputError

#: Bins of a :class:`MagnitudeHistogram`, and the exponent at which they start.
MAGNITUDES: Final = 64
MAGNITUDE_FIRST: Final = -40
_EXPONENT_BIAS = 127
#: The bin of each exponent of float32.
_OCTAVES = (torch.arange(256) - (_EXPONENT_BIAS + MAGNITUDE_FIRST)).clamp(0, MAGNITUDES - 1)
_READ = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MagnitudeHistogram:
    """How often |x| lies in each octave, and how often x is zero, NaN or infinite.

    Bin i counts ``2^(i−40) ≤ |x| < 2^(i−39)``; the first and the last bin also hold what lies
    beyond. Counts are int64; the exponent is read from the bits, so no count depends on rounding.

    >>> h = MagnitudeHistogram.of(torch.tensor([1.0, -1.5, 2.0, 0.0, float("inf")]))
    >>> h.bins[40:42].tolist(), h.zero.item(), h.nan.item(), h.infinite.item()
    ([2, 1], 1, 0, 1)
    """

    #: 64 bins, then zero, NaN and infinite: int64[67], or several of these ``[..., 67]``.
    counts: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Self:
        """Count float32 or bfloat16 elements."""
        counts = torch.zeros(MAGNITUDES + 3, dtype=torch.int64, device=x.device)
        if x.device.type == "cpu" and x.dtype in _READ:
            return cls(counts=_count_exponents(x, counts))
        index = magnitude_index(x).flatten()
        return cls(counts=counts.index_add_(0, index, torch.ones_like(index, dtype=torch.int64)))

    @property
    def bins(self) -> Tensor:
        """The 64 octaves."""
        return self.counts[..., :MAGNITUDES]

    @property
    def zero(self) -> Tensor:
        return self.counts[..., MAGNITUDES]

    @property
    def nan(self) -> Tensor:
        return self.counts[..., MAGNITUDES + 1]

    @property
    def infinite(self) -> Tensor:
        return self.counts[..., MAGNITUDES + 2]

    def log2_quantile(self, q: float) -> Tensor:
        """The octave that holds the ``q``-quantile of |x| > 0: log2 of its lower edge, float64.

        Within one octave; NaN where nothing but zero, NaN and infinity was counted. The first and
        the last octave also hold what lies beyond.

        >>> MagnitudeHistogram.of(torch.tensor([0.0, 1.0, 5.0, 6.0])).log2_quantile(0.5).item()
        2.0
        """
        reached = self.bins.cumsum(-1)
        total = reached[..., -1]
        wanted = (total.double() * q).ceil().clamp(min=1)
        octave = (reached.double() < wanted[..., None]).sum(-1).double() + MAGNITUDE_FIRST
        return torch.where(total > 0, octave, torch.nan)

    def merge(self, other: "MagnitudeHistogram") -> "MagnitudeHistogram":
        """Counts of both."""
        return MagnitudeHistogram(counts=self.counts + other.counts)


def _count_exponents(x: Tensor, counts: Tensor) -> Tensor:
    """What :func:`magnitude_index` would give, counted, in fewer passes: exponents first."""
    bits = x.float().contiguous().view(torch.int32).flatten()
    # Cutting to a byte takes the sign off, and bytes are counted without a look at the smallest.
    shifted = torch.empty_like(bits, dtype=torch.uint8)
    torch.bitwise_right_shift(bits, 23, out=shifted)
    exponents = torch.bincount(shifted, minlength=256)
    smallest, nonfinite = int(exponents[0]), int(exponents[255])
    if nonfinite:
        exponents[255] = 0
    counts.index_add_(0, _OCTAVES, exponents)
    if smallest:  # zeros and subnormal numbers
        zeros = bits.numel() - torch.count_nonzero(bits & 0x7FFFFFFF)
        counts[0] -= zeros
        counts[MAGNITUDES] = zeros
    if nonfinite:
        nan = torch.count_nonzero(x.isnan())
        counts[MAGNITUDES + 1], counts[MAGNITUDES + 2] = nan, nonfinite - nan
    return counts


def magnitude_index(x: Tensor) -> Tensor:
    """The place of each element in :class:`MagnitudeHistogram`'s counts, int32.

    >>> magnitude_index(torch.tensor([2.0**-60, 1.99, 2.0**60, -0.0, float("nan")])).tolist()
    [0, 40, 63, 64, 65]
    """
    if x.dtype not in _READ:
        raise InputError(f"magnitudes are read from float32 or bfloat16 bits, got {x.dtype}.")
    bits = x.float().contiguous().view(torch.int32) & 0x7FFFFFFF
    index = (bits >> 23).sub_(_EXPONENT_BIAS + MAGNITUDE_FIRST).clamp_(0, MAGNITUDES - 1)
    index.masked_fill_(bits == 0, MAGNITUDES)
    index.masked_fill_(bits > 0x7F800000, MAGNITUDES + 1)
    return index.masked_fill_(bits == 0x7F800000, MAGNITUDES + 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarterOctaves:
    """Edges ``2^e · {1, 1.25, 1.5, 1.75}`` from ``2^first`` on: a float's top two mantissa bits.

    Counts stand in int64 tensors of ``bins + 1``; the last counts what has no value. What lies
    beyond the edges is in the outer bins. A quantile read from the counts is within 12 % of the
    sample's: half of the widest bin, which is a quarter of its lower edge.
    """

    first: int
    octaves: int

    @property
    def bins(self) -> int:
        return 4 * self.octaves

    def index(self, values: Tensor, there: Tensor) -> Tensor:
        """Bin of each positive value, int64; ``bins`` where it is not ``there``.

        >>> ratio = QuarterOctaves(first=0, octaves=4)
        >>> ratio.index(torch.tensor([1.0, 1.3, 3.9, 99.0]), torch.tensor(True)).tolist()
        [0, 1, 7, 15]
        """
        bits = values.double().contiguous().view(torch.int64) >> 50
        bin_ = (bits - 4 * (self.first + 1023)).clamp(0, self.bins - 1)
        return torch.where(there, bin_, self.bins)

    def edge(self, position: int) -> float:
        """Lower edge of a bin."""
        octave, quarter = divmod(position, 4)
        return math.ldexp(1.0 + quarter / 4.0, self.first + octave)

    def quantile(self, counts: Tensor, q: float) -> float | None:
        """The ``q``-quantile, straight within a bin; ``None`` where nothing was counted.

        >>> QuarterOctaves(first=0, octaves=1).quantile(torch.tensor([0, 4, 0, 0, 9]), 0.5)
        1.375
        """
        found = float(self.quantiles(counts, (q,)))
        return None if math.isnan(found) else found

    def quantiles(self, counts: Tensor, shares: Sequence[float]) -> Tensor:
        """Several of several histograms, ``[..., bins + 1]`` to float64 ``[..., shares]``.

        NaN where nothing was counted.
        """
        for q in shares:
            if not 0.0 <= q <= 1.0:
                raise InputError(f"a quantile is asked for between 0 and 1, got {q}.")
        each = self._counted(counts)
        reached = each.cumsum(-1).double()
        total = reached[..., -1:]
        wanted = total * torch.tensor(shares, dtype=torch.float64, device=counts.device)
        # The first bin that reaches far enough and was counted: half a count is in no other.
        at = torch.searchsorted(reached, wanted.clamp(min=0.5)).clamp(max=self.bins - 1)
        count = each.gather(-1, at).clamp(min=1)
        below = reached.gather(-1, at) - count
        edges = self._edges().to(counts.device)
        low, high = edges[at], edges[at + 1]
        return torch.where(total > 0, low + (high - low) * (wanted - below) / count, torch.nan)

    def largest(self, counts: Tensor) -> float | None:
        """The middle of the highest bin that was counted, within 12 %; ``None`` without counts.

        >>> QuarterOctaves(first=0, octaves=1).largest(torch.tensor([0, 4, 1, 0, 9]))
        1.625
        """
        found = float(self.highest(counts))
        return None if math.isnan(found) else found

    def highest(self, counts: Tensor) -> Tensor:
        """The same of several histograms ``[..., bins + 1]``, float64 ``[...]``; NaN: no counts."""
        each = self._counted(counts)
        at = (self.bins - 1) - (each.flip(-1) > 0).to(torch.uint8).argmax(-1)
        edges = self._edges().to(counts.device)
        return torch.where(each.sum(-1) > 0, (edges[at] + edges[at + 1]) / 2, torch.nan)

    def _counted(self, counts: Tensor) -> Tensor:
        if counts.shape[-1] != self.bins + 1:
            raise InputError(f"these edges have {self.bins} bins and one more, got {counts.shape}.")
        return counts[..., : self.bins]

    @cache  # noqa: B019 - a few constants, whose edges never change
    def _edges(self) -> Tensor:
        edges = [self.edge(position) for position in range(self.bins + 1)]
        return torch.tensor(edges, dtype=torch.float64)
