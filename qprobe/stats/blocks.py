"""What blocks held before a format took them, and which of them it rounded to zero."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qprobe.stats import compensated, pair
from qprobe.stats.additive import Additive, count, narrow
from qprobe.stats.codes import range_octaves
from qprobe.stats.missing import known, ratio

#: Bins of a quarter octave from 0 on; the last holds what lies beyond 64 octaves.
RANGE_STEPS = 4
RANGE_BINS = 64 * RANGE_STEPS
_QUANTILES = {"median": 0.5, "p90": 0.9, "max": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRanges(Additive):
    """Counts of blocks, int64 unless said."""

    #: Blocks; with NaN or infinity; of the others with an element that is not zero; of these with
    #: nothing left.
    n: Tensor
    nonfinite: Tensor
    filled: Tensor
    lost: Tensor
    #: Sum ``[2]`` and histogram ``[RANGE_BINS]`` of the octaves of filled blocks; the latter in the
    #: narrowest integers that hold it.
    octaves: Tensor
    histogram: Tensor

    def scalars(self) -> Mapping[str, Tensor]:
        any_, filled = self.n > 0, self.filled > 0
        held = self.n - self.nonfinite
        values = {
            "zero": (ratio(held - self.filled, self.n), any_),
            "nonfinite": (ratio(self.nonfinite, self.n), any_),
            "rounded_to_zero": (ratio(self.lost, self.filled), filled),
            "octaves_mean": (ratio(compensated.total(self.octaves), self.filled), filled),
        }
        for name, share in _QUANTILES.items():
            values[f"octaves_{name}"] = (_quantile(self.histogram, share), filled)
        return {"n": self.n} | known(values)

    def arrays(self) -> Mapping[str, Tensor]:
        return {"octaves": self.histogram.long()}


def block_ranges(blocks: Tensor, values: Tensor) -> BlockRanges:
    """Dynamic range inside blocks, and blocks that were something and became zero.

    ``blocks`` holds the elements before rounding and ``values`` what they became, both
    ``[..., blocks, size]`` (:func:`~qprobe.stats.codes.in_blocks`). As scalars::

        zero             share of blocks that held nothing but zeros
        nonfinite        share of blocks with NaN or infinity, which are in none of the following
        rounded_to_zero  of the blocks that held something, the share of which nothing is left
        octaves_mean     mean over these blocks of log2(max|x| / min|x| over x ≠ 0)
        octaves_*        median, p90, max of the same

    Shares and the mean are exact. Quantiles are lower edges of bins of a quarter octave, that is,
    up to a quarter octave low. E2M1 holds log2(6 / 0.5) = 3.58 octaves: what a wider block has at
    its lower end is rounded up to the smallest code or to zero.

    Reference: our own.

    >>> x = torch.tensor([[8.0, 1.0], [1e-9, 0.0], [0.0, 0.0]])
    >>> found = block_ranges(x, torch.tensor([[8.0, 1.0], [0.0, 0.0], [0.0, 0.0]])).scalars()
    >>> [round(found[key].item(), 4) for key in ("zero", "rounded_to_zero", "octaves_mean")]
    [0.3333, 0.5, 1.5]
    """
    pair.check(blocks, values, "blocks and what they became")
    there = blocks.isfinite().all(-1)
    filled = there & (blocks != 0).any(-1)
    octaves = torch.where(filled, range_octaves(blocks), 0.0)
    index = (octaves * RANGE_STEPS).long().clamp(0, RANGE_BINS - 1).reshape(-1)
    bins = torch.zeros(RANGE_BINS, dtype=torch.int64, device=blocks.device)
    bins.index_add_(0, index, filled.reshape(-1).long())
    return BlockRanges(
        n=torch.full((), there.numel(), dtype=torch.int64, device=blocks.device),
        nonfinite=count(~there),
        filled=count(filled),
        lost=count(filled & ~(values != 0).any(-1)),
        octaves=compensated.start(octaves.sum()),
        histogram=narrow(bins, there.numel()),
    )


def _quantile(histogram: Tensor, share: float) -> Tensor:
    """The lower edge of the first bin that reaches ``share`` of the counts, float64."""
    reached = histogram.cumsum(0)
    wanted = (reached[-1].double() * share).ceil().clamp(min=1)
    return (reached.double() < wanted).sum().double() / RANGE_STEPS
