"""How the sixteen codes of E2M1 are used, and the scales of their blocks."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from qprobe.errors import InputError
from qprobe.stats import compensated
from qprobe.stats.additive import Additive, count, narrow
from qprobe.stats.discretization import effective_levels
from qprobe.stats.missing import known, ratio

#: Scales are counted by eighths of a power of two in value, the first from 2⁻¹²⁸ on.
STEPS = 8
LOWEST = -128
_EIGHTHS = 256 * STEPS
#: Where E4M3 is, and far around it, each eighth has a bin of its own; elsewhere, where only the
#: powers of two of E8M0 are, each octave has one. So a scale of either format is alone in its bin.
_FINE = range((-16 - LOWEST) * STEPS, (16 - LOWEST) * STEPS)
#: The eighth that each bin starts at.
_STARTS = torch.cat(
    [
        torch.arange(0, _FINE.start, STEPS),
        torch.arange(_FINE.start, _FINE.stop),
        torch.arange(_FINE.stop, _EIGHTHS, STEPS),
    ]
)
SCALE_BINS = len(_STARTS)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeOccupancy(Additive):
    """How often each code stands, int64 ``[17]``; the last counts what is no code."""

    counts: Tensor

    def scalars(self) -> Mapping[str, Tensor]:
        *codes, wrong = self.counts.tolist()
        if wrong:
            raise InputError(
                f"{wrong} of {sum(codes) + wrong} codes are not in 0..15; pass one code an "
                "element, not two packed into a byte."
            )
        counts = self.counts[:16]
        n = counts.sum()
        values = {f"code{code}": (ratio(counts[code], n), n > 0) for code in range(16)}
        values["zero"] = (ratio(counts[0] + counts[8], n), n > 0)
        values["largest"] = (ratio(counts[7] + counts[15], n), n > 0)
        # Both zeros are one value.
        merged = torch.cat([counts[:1] + counts[8:9], counts[1:8], counts[9:]])
        values["effective_values"] = (effective_levels(merged), n > 0)
        return {"n": n} | known(values)

    def arrays(self) -> Mapping[str, Tensor]:
        return {"codes": self.counts[:16]}


def code_occupancy(codes: Tensor) -> CodeOccupancy:
    """Shares of the 16 codes, of zero, of the largest magnitude, and effective values.

    ``codes`` are integers 0..15, one an element, of any shape. ``effective_values`` is
    ``exp(−Σ f ln f)`` over the 15 different values, ±0 being one, with the bias of
    :func:`~qprobe.stats.discretization.effective_levels`; the shares are exact.

    Reference: Hill 1973, "Diversity and evenness", number of order 1.

    >>> found = code_occupancy(torch.tensor([0, 8, 7, 15], dtype=torch.uint8)).scalars()
    >>> found["zero"].item(), found["code7"].item(), found["largest"].item()
    (0.5, 0.25, 0.5)
    >>> round(found["effective_values"].item(), 4)  # shares 1/2, 1/4, 1/4: 2^1.5
    2.8284
    """
    _check_codes(codes)
    index = codes.detach().reshape(-1).long()
    index = torch.where((index < 0) | (index > 15), 16, index)
    counts = torch.zeros(17, dtype=torch.int64, device=codes.device)
    return CodeOccupancy(counts=counts.index_add_(0, index, torch.ones_like(index)))


def e2m1_values(codes: Tensor) -> Tensor:
    """The value of each code, float32, by arithmetic on the device; both zeros are +0.

    >>> e2m1_values(torch.arange(16)).tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
    """
    _check_codes(codes)
    wide = codes.int()
    size = wide & 7
    # One mantissa bit under an exponent, except for 0 and 1, which are subnormal; in quarters.
    quarters = torch.where(size < 2, 2 * size, (2 + (size & 1)) << (size >> 1))
    return torch.where((wide & 8) != 0, -quarters, quarters).float() / 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockScales(Additive):
    """Scales of blocks, and what is left in each block; int64 unless said."""

    #: Blocks; with a scale of zero; of these with a code that is not zero; NaN or negative scales.
    n: Tensor
    zero_scale: Tensor
    flushed: Tensor
    invalid: Tensor
    #: Blocks with a positive scale whose codes are all zero.
    empty: Tensor
    #: Counts of positive scales ``[SCALE_BINS]``, in the narrowest integers that hold them.
    histogram: Tensor
    #: Sum ``[2]`` of log2 of the positive scales.
    log2_scale: Tensor
    #: Blocks with a positive scale and a code that is not zero; sum ``[2]`` of their octaves.
    ranged: Tensor
    octaves: Tensor

    def scalars(self) -> Mapping[str, Tensor]:
        positive = self.histogram.sum()
        some, any_positive = self.n > 0, positive > 0
        values = {
            "zero_scale": (ratio(self.zero_scale, self.n), some),
            "flushed": (ratio(self.flushed, self.n), some),
            "empty": (ratio(self.empty, self.n), some),
            "invalid": (ratio(self.invalid, self.n), some),
            "scale_log2_mean": (ratio(compensated.total(self.log2_scale), positive), any_positive),
            "range_octaves": (ratio(compensated.total(self.octaves), self.ranged), self.ranged > 0),
        }
        for name, share in _QUANTILES.items():
            values[f"scale_log2_{name}"] = (scale_quantile(self.histogram, share), any_positive)
        return {"n": self.n} | known(values)

    def arrays(self) -> Mapping[str, Tensor]:
        eighths = torch.zeros(_EIGHTHS, dtype=torch.int64, device=self.histogram.device)
        eighths[_STARTS.to(eighths.device)] = self.histogram.long()
        return {"scales": eighths}


_QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}


def block_scales(scales: Tensor, codes: Tensor) -> BlockScales:
    """Distribution of stored scales, blocks that became zero, and the range inside blocks.

    ``scales`` are the values of the stored scales ``[..., blocks]``, ``codes`` the E2M1 codes
    ``[..., blocks, size]`` (:func:`in_blocks`). As scalars, shares of all blocks unless said::

        zero_scale     scale 0: the block was zero or became zero
        flushed        of these, a code is not zero: the block held something, and lost all of it
        empty          scale > 0, all codes 0: a row of a 2D tile far below its tile's largest
        invalid        scale is NaN, infinite or negative
        scale_log2_*   mean, min, p10, median, p90, max of log2 of the scales > 0
        range_octaves  mean over blocks of log2(largest / smallest non-zero magnitude of the codes)

    Shares and means are exact. Quantiles are lower bin edges, exact for E4M3 and E8M0 scales, which
    have a bin each. Ranges of codes end at log2(6/0.5) = 3.58; :func:`range_octaves` of the
    original blocks shows what lay below. That a block was flushed shows in its codes: under a scale
    of 0 an element saturates unless it is 0 (or below 10⁻³⁷).

    Reference: the two-level scaling is that of NVIDIA 2025, "Pretraining Large Language Models with
    NVFP4"; the statistics are our own.

    >>> scales = torch.tensor([448.0, 2.0, 0.0, 0.0])
    >>> codes = torch.tensor([[7, 1], [2, 2], [7, 0], [0, 0]], dtype=torch.uint8)
    >>> found = block_scales(scales, codes).scalars()
    >>> found["zero_scale"].item(), found["flushed"].item(), found["scale_log2_min"].item()
    (0.5, 0.25, 1.0)
    >>> round(found["range_octaves"].item(), 4)  # (log2(6 / 0.5) + 0) / 2
    1.7925
    """
    if codes.shape[:-1] != scales.shape:
        raise InputError(
            f"codes of {tuple(codes.shape)} do not stand in blocks under scales of "
            f"{tuple(scales.shape)}; codes are [..., blocks, size], see in_blocks()."
        )
    stored = scales.detach().double()
    magnitudes = e2m1_values(codes.detach()).abs()
    filled = (magnitudes > 0).any(-1)
    positive = (stored > 0) & stored.isfinite()
    octaves = range_octaves(magnitudes)
    counted = positive & filled
    return BlockScales(
        n=torch.full((), stored.numel(), dtype=torch.int64, device=stored.device),
        zero_scale=count(stored == 0),
        flushed=count((stored == 0) & filled),
        invalid=count(~positive & (stored != 0)),
        empty=count(positive & ~filled),
        histogram=_scale_histogram(stored, positive),
        log2_scale=compensated.start(torch.where(positive, stored, 1.0).log2().sum()),
        ranged=count(counted),
        octaves=compensated.start(torch.where(counted, octaves, 0.0).sum()),
    )


def range_octaves(blocks: Tensor) -> Tensor:
    """``log2(max|x| / min|x| over x ≠ 0)`` of each block, float64; NaN where all are zero.

    ``blocks`` is ``[..., blocks, size]``, the result ``[..., blocks]``.

    >>> range_octaves(torch.tensor([[8.0, -1.0, 0.0], [0.0, 0.0, 0.0]])).tolist()
    [3.0, nan]
    """
    size = blocks.double().abs()
    least = torch.where(size == 0, torch.inf, size).amin(-1)
    most = size.amax(-1)
    return torch.where(most == 0, torch.nan, most.log2() - least.log2())


def in_blocks(codes: Tensor, size: int, axis: int = -1) -> Tensor:
    """``codes`` with ``axis`` last and cut into blocks, ``[..., blocks, size]``; filled with 0.

    >>> in_blocks(torch.tensor([1, 2, 3]), 2).tolist()
    [[1, 2], [3, 0]]
    """
    if size < 1:
        raise InputError(f"a block has at least one element, got a size of {size}.")
    last = codes.movedim(axis, -1)
    filled = F.pad(last, (0, -last.shape[-1] % size))
    return filled.reshape(*last.shape[:-1], filled.shape[-1] // size, size)


def scale_quantile(histogram: Tensor, share: float) -> Tensor:
    """log2 of the scale below or at which ``share`` of the counted scales lie, float64.

    The lower edge of the first bin that reaches the share; NaN without counts.
    """
    reached = histogram.cumsum(0)
    wanted = (reached[-1].double() * share).ceil().clamp(min=1)
    bin_ = (reached.double() < wanted).sum()
    start = _STARTS.to(histogram.device)[bin_.clamp(max=SCALE_BINS - 1)]
    edge = 1.0 + (start % STEPS).double() / STEPS
    found = edge.log2() + (start // STEPS + LOWEST).double()
    return torch.where(reached[-1] > 0, found, torch.nan)


def _scale_histogram(stored: Tensor, positive: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(torch.where(positive, stored, 1.0))
    step = ((mantissa * 2.0 - 1.0) * STEPS).long()
    eighth = ((exponent.long() - 1 - LOWEST) * STEPS + step).clamp(0, _EIGHTHS - 1)
    below = eighth.clamp(max=_FINE.start) // STEPS
    above = (eighth - _FINE.stop).clamp(min=0) // STEPS
    index = below + (eighth - _FINE.start).clamp(0, len(_FINE)) + above
    counts = torch.zeros(SCALE_BINS, dtype=torch.int64, device=stored.device)
    kept = positive.reshape(-1).long()
    counts.index_add_(0, index.reshape(-1), kept)
    return narrow(counts, kept.numel())


def _check_codes(codes: Tensor) -> None:
    if codes.dtype not in _INTEGERS:
        raise InputError(
            f"codes are integers 0..15, got {codes.dtype}; pass what quantize() calls codes."
        )
