"""What PyTorch measures of the sampled tokens: magnitudes, and errors of NVFP4 and INT4.

In pieces that stay in cache and in memory that is kept from call to call. The arithmetic of the
formats is that of :mod:`qprobe.quant`, so counts are those of the quantizers.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from qprobe.native import Sampled
from qprobe.probes.summary_fields import Fields, Sample
from qprobe.probes.summary_scratch import scratch
from qprobe.quant import INT4, NVFP4, blockscale, integer
from qprobe.quant.rounding import e2m1_magnitudes_
from qprobe.stats.histogram import MagnitudeHistogram

#: Elements of a piece, as many as float32 can count one by one.
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
    budget = _PIECE if x.device.type == "cpu" else _PIECE_ON_DEVICE
    count = max(1, budget // length)
    if inner == 1:
        yield from x[sample.offset :: sample.stride, :, 0].split(count)
        return
    places = torch.arange(sample.offset, outer * inner, sample.stride, device=x.device)
    yield from (x[some // inner, :, some % inner] for some in places.split(count))


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
    finite = largest < torch.inf
    whole = tokens.device.type == "cpu" and bool(finite.all())
    if not whole:
        magnitudes.masked_fill_(~finite, 0.0)
        largest.masked_fill_(~finite, 0.0)
    known = counted is not None and whole
    there = counted.bins.sum() if known else torch.count_nonzero(magnitudes)
    fields.energy[0] += _energy(magnitudes, spare)
    fields.counts[0] += finite.sum() * tokens.shape[1]
    fields.counts[1] += there
    if Sampled.NVFP4 in sampled:
        _nvfp4(fields, magnitudes, there)
    if Sampled.INT4 in sampled:
        _int4(fields, magnitudes, largest, there)


def _energy(x: Tensor, spare: Tensor) -> Tensor:
    """``Σx²``; what float32 might not hold, and on a device all, is squared in float64."""
    squares = torch.mul(x, x, out=spare).sum(-1).double().sum()
    if x.device.type == "cpu" and 2.0**-90 * x.numel() < float(squares) < torch.inf:
        return squares
    return x.double().square().sum()


def _some(levels: Tensor, step: float, spare: Tensor) -> Tensor:
    """How many are not 0 of levels that are 0 or at least ``step``, a power of two."""
    if levels.device.type != "cpu" or levels.numel() > 1 << 23:  # float32 counts no further
        return torch.count_nonzero(levels)
    return (torch.clamp(levels, max=step, out=spare).sum() / step).long()


def _nvfp4(fields: Fields, rows: Tensor, there: Tensor) -> None:
    """Errors of magnitudes, which stand in the first of the buffers."""
    padding = -rows.shape[1] % NVFP4.block
    blocks = (F.pad(rows, (0, padding)) if padding else rows).view(rows.shape[0], -1, NVFP4.block)
    _, y, spare = scratch(blocks)
    # Bits order magnitudes as the numbers do, and short rows of integers are faster.
    largest = blocks.view(torch.int32).amax(2, keepdim=True).view(torch.float32)
    _, encode, decode = blockscale.scales(largest, fields.reference[0].float(), NVFP4)
    torch.mul(blocks, encode, out=y)
    if y.device.type != "cpu" or float((largest * encode).amax()) > _SATURATED:
        fields.counts[3] += torch.count_nonzero(y > _SATURATED)
        y.clamp_(max=6.0)
    codes = e2m1_magnitudes_(y, spare)
    fields.counts[2] += there - _some(codes, 0.5, spare)
    fields.energy[1] += _energy(codes.mul_(decode).sub_(blocks), spare)


def _int4(fields: Fields, rows: Tensor, largest: Tensor, there: Tensor) -> None:
    """Errors of magnitudes, the largest of each row at hand."""
    _, codes, spare = scratch(rows)
    s = integer.scales(largest, INT4, (1,))
    if rows.device.type == "cpu" and float(s.lift.amax()) == 1.0:
        torch.mul(rows, s.inverse, out=codes).round_()  # the largest gives 7, to a rounding
    else:
        codes.copy_(integer.codes(rows, INT4, s))
    fields.counts[4] += there - _some(codes, 1.0, spare)
    fields.energy[2] += _energy(codes.mul_(s.scale).sub_(rows), spare)
