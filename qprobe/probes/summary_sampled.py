"""What PyTorch measures of the sampled tokens: magnitudes, and errors of NVFP4 and INT4.

In pieces that stay in cache and in memory that is kept from call to call. The arithmetic of the
formats is that of :mod:`qprobe.quant`, so counts are those of the quantizers.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from qprobe.native import Sampled
from qprobe.probes.summary_fields import Fields, Sample
from qprobe.probes.summary_scratch import scratch
from qprobe.quant import INT4, NVFP4, blockscale, integer
from qprobe.quant.rounding import e2m1_magnitudes_
from qprobe.stats.histogram import MagnitudeHistogram

#: Elements of a piece, about.
_PIECE = 1 << 18
_PIECE_ON_DEVICE = 1 << 24
#: 6 and a margin for the rounding of the scales: ties lie exactly on 6.
_SATURATED = 6.000091552734375


def read_sample(fields: Fields, x: Tensor, sampled: Sampled, sample: Sample) -> None:
    """Add the sampled tokens of dense ``[outer, channels, inner]`` to ``fields``."""
    for tokens in _tokens(x, sample):
        _add(fields, tokens, sampled)


def _tokens(x: Tensor, sample: Sample) -> Iterator[Tensor]:
    """Sampled tokens as rows, some at a time."""
    outer, length, inner = x.shape
    chosen = range(sample.offset, outer * inner, sample.stride)
    budget = _PIECE if x.device.type == "cpu" else _PIECE_ON_DEVICE
    pieces = max(1, round(len(chosen) * length / budget))
    if inner == 1:
        yield from x[sample.offset :: sample.stride, :, 0].tensor_split(pieces)
        return
    places = torch.arange(chosen.start, chosen.stop, chosen.step, device=x.device)
    yield from (x[some // inner, :, some % inner] for some in places.tensor_split(pieces))


def _add(fields: Fields, tokens: Tensor, sampled: Sampled) -> None:
    """Histogram and errors; tokens with NaN or infinity are in no error."""
    if not tokens.numel():
        return
    magnitudes, spare, _ = scratch(tokens)
    if tokens.dtype == torch.float32:
        torch.abs(tokens, out=magnitudes)
    else:
        magnitudes.copy_(tokens).abs_()
    counted = MagnitudeHistogram.of(magnitudes) if Sampled.HISTOGRAM in sampled else None
    if counted is not None:
        fields.magnitudes.add_(counted.counts)
    if not sampled & (Sampled.NVFP4 | Sampled.INT4):
        return
    largest = magnitudes.amax(1, keepdim=True)
    elements, whole = _without_nonfinite(magnitudes, largest)
    known = counted if whole else None
    there = magnitudes.count_nonzero() if known is None else known.bins.sum()
    none = torch.zeros_like(there)
    signal, nvfp4, int4 = _energy(magnitudes, spare), none.double(), none.double()
    kept, saturated, kept_int4 = there, none, there
    if Sampled.NVFP4 in sampled:
        nvfp4, kept, saturated = _nvfp4(magnitudes, fields.reference)
    if Sampled.INT4 in sampled:
        int4, kept_int4 = _int4(magnitudes, largest)
    fields.energy.add_(torch.stack((signal, nvfp4, int4)))
    fields.counts.add_(torch.stack((elements, there, there - kept, saturated, there - kept_int4)))


def _without_nonfinite(magnitudes: Tensor, largest: Tensor) -> tuple[Tensor, bool]:
    """Make tokens that have NaN or infinity zero; elements of the others, and if these are all."""
    elements = torch.full((), magnitudes.numel(), device=magnitudes.device)
    if magnitudes.device.type == "cpu" and float(largest.amax()) < torch.inf:
        return elements, True
    left = (largest < torch.inf).logical_not_()
    magnitudes.masked_fill_(left, 0.0)
    largest.masked_fill_(left, 0.0)
    return elements - left.sum() * magnitudes.shape[1], False


def _energy(x: Tensor, spare: Tensor) -> Tensor:
    """``Σx²``, float64; what float32 might not hold, and on a device all, is squared in float64."""
    squares = torch.mul(x, x, out=spare).sum(-1).sum(dtype=torch.float64)
    if x.device.type == "cpu" and 2.0**-90 * x.numel() < float(squares) < torch.inf:
        return squares
    return x.double().square().sum()


def _some(levels: Tensor, step: float, spare: Tensor) -> Tensor:
    """How many are not 0 of levels that are 0 or at least ``step``, a power of two."""
    if levels.device.type != "cpu" or levels.numel() > 1 << 23:  # float32 counts no further
        return torch.count_nonzero(levels)
    return (torch.clamp(levels, max=step, out=spare).sum() / step).long()


def _nvfp4(rows: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of magnitudes: the squared error, how many are not zero then, and how many saturate."""
    padding = -rows.shape[1] % NVFP4.block
    blocks = (F.pad(rows, (0, padding)) if padding else rows).view(rows.shape[0], -1, NVFP4.block)
    _, y, spare = scratch(blocks)  # in the first one are the rows
    # Bits order magnitudes as the numbers do, and short rows of integers are faster.
    largest = blocks.view(torch.int32).amax(2, keepdim=True).view(torch.float32)
    if rows.device.type == "cpu":
        encode, decode = _scaling(float(reference))(largest)[1:]
    else:
        encode, decode = blockscale.scales(largest, reference[0].float(), NVFP4)[1:]
    torch.mul(blocks, encode, out=y)
    saturated = torch.zeros((), dtype=torch.int64, device=rows.device)
    if y.device.type != "cpu" or float((largest * encode).amax()) > _SATURATED:
        saturated = torch.count_nonzero(y > _SATURATED)
        y.clamp_(max=6.0)
    codes = e2m1_magnitudes_(y, spare)
    kept = _some(codes, 0.5, spare)
    return _energy(codes.mul_(decode).sub_(blocks), spare), kept, saturated


@lru_cache(1024)  # the largest magnitude seen so far is the same at most looks
def _scaling(largest: float) -> Callable[[Tensor], blockscale.Scales]:
    return blockscale.scaling(torch.tensor(largest), NVFP4)


def _int4(rows: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Of magnitudes, the largest of each row at hand: the squared error, and how many are kept."""
    _, codes, spare = scratch(rows)
    s = integer.scales_of(largest, INT4)
    if rows.device.type == "cpu" and float(s.lift.amax()) == 1.0:
        torch.mul(rows, s.inverse, out=codes).round_()  # the largest gives 7, to a rounding
    else:
        codes.copy_(integer.codes(rows, INT4, s))
    kept = _some(codes, 1.0, spare)
    return _energy(codes.mul_(s.scale).sub_(rows), spare), kept
