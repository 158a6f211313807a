"""How many different values are left: the staircase that quantization makes of probabilities."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import starmap
from typing import TypedDict

import torch
from torch import Tensor

from qprobe.stats import pair
from qprobe.stats.additive import count, narrow
from qprobe.stats.heads import PerHead
from qprobe.stats.missing import ratio

#: A bin is 1/64 of an octave: 1.1 % of its value.
BINS_PER_OCTAVE = 64
#: Probabilities below 2⁻²⁰ are not counted: what is less than a millionth moves nothing.
OCTAVES = 20
#: The last bin holds 1 (and what block scales round above it).
BINS = BINS_PER_OCTAVE * OCTAVES + 1
#: Edges lie this share of a bin low: what rounding keeps from a power of two counts as one.
MARGIN = 2.0**-38


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels(PerHead):
    """Histograms of the same probabilities before and after quantization.

    n counts the probabilities that lie in [2⁻²⁰, 1] before *and* after, so that both histograms
    hold equally many.
    """

    #: Counts a bin, ``[BINS, heads]``, in the narrowest integers that hold them.
    reference: Tensor
    quantized: Tensor
    #: Probabilities in range before, and of these below it after, int64 ``[heads]``.
    in_range: Tensor
    below: Tensor
    #: Probabilities that are NaN or infinite, before or after, int64 ``[heads]``.
    invalid: Tensor

    def seen(self) -> Tensor:
        return self.reference.sum(0)

    def levels(self) -> tuple[Tensor, Tensor]:
        """Effective levels before and after; NaN where missing or where something is invalid."""
        broken = self.invalid > 0
        before, after = effective_levels(self.reference), effective_levels(self.quantized)
        return before.masked_fill(broken, torch.nan), after.masked_fill(broken, torch.nan)

    def values(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        before, after = self.levels()
        exists = (self.seen() > 0) | (self.invalid > 0)
        return {
            "levels": (before, exists),
            "levels_quantized": (after, exists),
            "levels_ratio": (after / before, exists),
            "vanished": (ratio(self.below, self.in_range), self.in_range > 0),
        }

    def arrays(self) -> Mapping[str, Tensor]:
        return {"levels": self.reference.long(), "levels_quantized": self.quantized.long()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionLevels(Levels):
    """Levels of predictions, which have no heads: one column."""

    def scalars(self) -> Mapping[str, Tensor]:
        return self.whole()


def effective_levels(counts: Tensor) -> Tensor:
    """How many equally frequent bins would be as even, ``exp(−Σ f ln f)``.

    ``counts`` is ``[bins, ...]`` and ``f`` a bin's share of its column; the result is float64
    ``[...]``, between 1 and the number of bins, NaN for a column without counts. With k bins in use
    and n counts the entropy comes out low by about (k − 1)/(2n), so compare at equal n only.

    Reference: Hill 1973, "Diversity and evenness", number of order 1; the bias is Miller's (1955).

    >>> round(effective_levels(torch.tensor([5, 5, 0, 0])).item(), 9)
    2.0
    """
    n = counts.sum(0).double()
    wide = counts.double()
    entropy = n.clamp(min=1).log() - torch.special.xlogy(wide, wide).sum(0) / n.clamp(min=1)
    return torch.where(n > 0, entropy.exp(), torch.nan)


def level(p: Tensor) -> Tensor:
    """The bin of each probability, int64: ``⌊64·log2 p⌋`` counted from 2⁻²⁰.

    What is less than 2⁻³⁸ of a bin below an edge counts as on it: a probability of 1 that rounding
    has made a little less stays in the last bin.

    >>> level(torch.tensor([2.0**-20, 0.5, 1.0])).tolist()
    [0, 1216, 1280]
    """
    index = p.double().log2().mul_(BINS_PER_OCTAVE).add_(BINS - 1 + MARGIN).floor_()
    # NaN has no bin; fmax puts it into the first, and its own flag keeps it out of the histogram.
    return torch.fmax(index, index.new_zeros(())).clamp_(max=BINS - 1).long()


class LevelCounts(TypedDict):
    """The tensors of :class:`Levels`."""

    reference: Tensor
    quantized: Tensor
    in_range: Tensor
    below: Tensor
    invalid: Tensor


def level_histograms(p: Tensor, quantized: Tensor, visible: Tensor) -> LevelCounts:
    """The fields of :class:`Levels` for ``[n, heads, m]`` probabilities where ``visible``."""
    heads = p.shape[1]
    # Probabilities do not overflow; a comparison is several times as fast as isfinite().
    finite = (p + quantized).abs() < torch.inf
    in_range = visible & finite & (p >= 2.0**-OCTAVES)
    kept = in_range & (quantized >= 2.0**-OCTAVES)
    axes = (0, 2)
    return {
        "reference": _histogram(level(p), kept, heads),
        "quantized": _histogram(level(quantized), kept, heads),
        "in_range": count(in_range, axes),
        "below": count(in_range & ~kept, axes),
        "invalid": count(visible & ~finite, axes),
    }


def prediction_levels(p: Tensor, quantized: Tensor) -> PredictionLevels:
    """Effective levels of ``min(p, 1 − p)`` of output probabilities, before and after.

    ``p`` and ``quantized`` are probabilities of the same elements, of any shape. ``levels_ratio``
    well below 1 is a staircase in the precision-recall curve. Half precision rounds 1 − p away near
    1: where logits are at hand, pass ``sigmoid(−|logits|)`` of both, which is the same quantity.

    >>> p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    >>> found = prediction_levels(p, torch.tensor([0.25, 0.25, 0.25, 0.75])).scalars()
    >>> [round(found[key].item(), 6) for key in ("levels", "levels_quantized", "levels_ratio")]
    [4.0, 1.0, 0.25]
    """
    pair.check(p, quantized, "predictions before and after quantization")
    return reduce(PredictionLevels.merge, starmap(_prediction_levels, pair.pieces(p, quantized)))


def _prediction_levels(p: Tensor, quantized: Tensor) -> PredictionLevels:
    before, after = (torch.minimum(x, 1.0 - x)[None, None] for x in (p, quantized))
    every = torch.ones_like(before, dtype=torch.bool)
    return PredictionLevels(**level_histograms(before, after, every))


def _histogram(index: Tensor, kept: Tensor, heads: int) -> Tensor:
    """Counts ``[BINS, heads]`` of ``[n, heads, m]``, without reading a value on the host."""
    if heads > 1:
        index = index * heads + torch.arange(heads, device=index.device)[:, None]
    where = index.reshape(-1)
    counts = torch.zeros(BINS * heads, dtype=torch.int64, device=index.device)
    counts.index_add_(0, where, kept.reshape(-1).long())
    return narrow(counts.view(BINS, heads), where.numel() // heads)
