"""What PyTorch measures of the sampled tokens: magnitudes, and errors of NVFP4 and INT4.

In pieces that stay in cache and in memory that is kept from call to call. The arithmetic of the
formats is that of :mod:`qprobe.quant`, so counts are those of the quantizers.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

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
#: From there to the next number of float32.
_NEXT = 2.0**-21
#: From there on rounding would find 8.
_ROUNDED = 7.0


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
    magnitudes = scratch(tokens)[0]
    if tokens.dtype == torch.float32:
        torch.abs(tokens, out=magnitudes)
    else:
        magnitudes.copy_(tokens).abs_()
    counted = MagnitudeHistogram.of(magnitudes) if Sampled.HISTOGRAM in sampled else None
    if counted is not None:
        fields.magnitudes.add_(counted.counts)
    if not sampled & (Sampled.NVFP4 | Sampled.INT4):
        return
    blocks = _in_blocks(magnitudes)
    # Bits order magnitudes as the numbers do, and short rows of integers are faster.
    tops = blocks.view(torch.int32).amax(2).view(torch.float32)
    elements, whole = _without_nonfinite(magnitudes, blocks, tops)
    there = counted.bins.sum() if counted and whole else magnitudes.count_nonzero()
    none = torch.zeros_like(there)
    nvfp4, int4 = _Error(none, there, none), _Error(none, there, none)
    signal = _energy(magnitudes)
    if Sampled.NVFP4 in sampled:
        nvfp4 = _nvfp4(blocks, tops[..., None], fields.reference)
    if Sampled.INT4 in sampled:
        int4 = _int4(magnitudes, tops.amax(1, keepdim=True))
    fields.energy.add_(torch.stack((signal, nvfp4.energy, int4.energy)))
    fields.counts.add_(
        torch.stack((elements, there, there - nvfp4.kept, nvfp4.saturated, there - int4.kept))
    )


class _Error(NamedTuple):
    """Of a format: squared error, how many elements are not zero then, and how many saturate."""

    energy: Tensor
    kept: Tensor
    saturated: Tensor


def _in_blocks(rows: Tensor) -> Tensor:
    """``[tokens, blocks, 16]``, a copy where the last block has to be filled up with zeros."""
    padding = -rows.shape[1] % NVFP4.block
    return (F.pad(rows, (0, padding)) if padding else rows).view(rows.shape[0], -1, NVFP4.block)


def _without_nonfinite(rows: Tensor, blocks: Tensor, tops: Tensor) -> tuple[Tensor, bool]:
    """Make tokens that have NaN or infinity zero; elements of the others, and if these are all."""
    elements = torch.full((), rows.numel(), device=rows.device)
    if rows.device.type == "cpu" and float(tops.amax()) < torch.inf:
        return elements, True
    left = (tops.amax(1, keepdim=True) < torch.inf).logical_not_()
    rows.masked_fill_(left, 0.0)
    blocks.masked_fill_(left[..., None], 0.0)
    tops.masked_fill_(left, 0.0)
    return elements - left.sum() * rows.shape[1], False


def _energy(x: Tensor) -> Tensor:
    """``Σx²``, float64; what float32 might not hold, and on a device all, is squared in float64."""
    if x.device.type == "cpu":
        norms = torch.linalg.vector_norm(x.view(len(x), -1), dim=1).double()
        squares = torch.dot(norms, norms)
        if 2.0**-90 * x.numel() < float(squares) < torch.inf:
            return squares
    return x.double().square().sum()


def _above(levels: Tensor, edge: float, step: float, spare: Tensor) -> Tensor:
    """How many levels are above ``edge``, if those are at least ``step``, a power of two, above."""
    if levels.device.type != "cpu" or levels.numel() > 1 << 23:  # float32 counts no further
        return torch.count_nonzero(levels > edge)
    torch.clamp(levels, edge, edge + step, out=spare)
    return (spare.sub_(edge) if edge else spare).sum().div_(step).long()


def _nvfp4(blocks: Tensor, tops: Tensor, reference: Tensor) -> _Error:
    """Of blocks of magnitudes, the largest of each at hand."""
    _, y, spare = scratch(blocks)  # in the first one are the blocks
    if blocks.device.type == "cpu":
        encode, decode = _scaling(float(reference))(tops)[1:]
        top = float((tops * encode).amax())
    else:
        encode, decode = blockscale.scales(tops, reference[0].float(), NVFP4)[1:]
        top = torch.inf
    torch.mul(blocks, encode, out=y)
    saturated = torch.zeros((), dtype=torch.int64, device=blocks.device)
    if top > _SATURATED:
        saturated = _above(y, _SATURATED, _NEXT, spare)
    if top >= _ROUNDED:
        y.clamp_(max=6.0)
    codes = e2m1_magnitudes_(y, spare)
    kept = _above(codes, 0.0, 0.5, spare)
    return _Error(_energy(codes.mul_(decode).sub_(blocks)), kept, saturated)


@lru_cache(1024)  # the largest magnitude seen so far is the same at most looks
def _scaling(largest: float) -> Callable[[Tensor], blockscale.Scales]:
    return blockscale.scaling(torch.tensor(largest), NVFP4)


def _int4(rows: Tensor, largest: Tensor) -> _Error:
    """Of rows of magnitudes, the largest of each at hand."""
    _, codes, spare = scratch(rows)
    s = integer.plain_scales_of(largest, INT4) if rows.device.type == "cpu" else None
    if s is not None:
        torch.mul(rows, s.inverse, out=codes).round_()  # the largest gives 7, to a rounding
    else:
        s = integer.scales_of(largest, INT4)
        codes.copy_(integer.codes(rows, INT4, s))
    kept = _above(codes, 0.0, 1.0, spare)
    return _Error(_energy(codes.mul_(s.scale).sub_(rows)), kept, torch.zeros_like(kept))
