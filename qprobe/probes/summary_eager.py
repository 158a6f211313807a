"""Filling a summary with PyTorch, in pieces that stay in cache: where the kernel is not.

The numbers are the kernel's, to what :mod:`qprobe.probes.summary` says. Nothing is read back from
an accelerator: there each piece takes the float64 path, which needs no decision.
"""

import math
import threading
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qprobe.native import Sampled
from qprobe.probes.summary_fields import KURTOSIS, LARGEST, MEAN_SQUARE, Fields, Sample
from qprobe.quant import INT4, NVFP4, blockscale, integer
from qprobe.quant.rounding import e2m1_nearest_
from qprobe.stats.histogram import MagnitudeHistogram
from qprobe.stats.moments import Moments

#: Elements of a piece: few enough that intermediate results stay in the last-level cache, enough
#: that the calls into PyTorch count little.
_PIECE = 1 << 18
_PIECE_ON_DEVICE = 1 << 24
#: Float32 holds the fourth powers of what has at least this magnitude and variance after scaling.
_TINY, _FLAT = 2.0**-30, 2.0**-56
#: Below a variance of (2^-21 mean)² float32 does not tell a token from a constant.
_CONSTANT = 2.0**-42
#: 6 and a margin for the rounding of the scales: ties lie exactly on 6.
_SATURATED = 6.000091552734375

_memory = threading.local()


class _Tokens(NamedTuple):
    """Of each token; the variance and fourth moment may be scaled, alike."""

    square: Tensor
    largest: Tensor
    variance: Tensor
    fourth: Tensor
    constant: Tensor
    finite: Tensor


class _Piece(NamedTuple):
    channels: Tensor
    tokens: _Tokens
    nonfinite: Tensor


def read(fields: Fields, x: Tensor, sampled: Sampled, sample: Sample) -> None:
    """Add dense ``[outer, channels, inner]`` float32 or bfloat16 to ``fields``."""
    if Sampled.NVFP4 in sampled:
        _find_reference(fields, x)
    pieces = [_piece(part, axis) for part, axis in _pieces(x)]
    parts = Moments.unpack(torch.stack([p.channels for p in pieces], 1))
    fields.channels.copy_(Moments.unpack(fields.channels).merge(parts.total(0)).pack())
    fields.nonfinite.add_(torch.stack([p.nonfinite for p in pieces]).sum(0))
    _count_tokens(fields, _Tokens(*map(torch.cat, zip(*(p.tokens for p in pieces), strict=True))))
    if sampled:
        _sample(fields, _rows(x, sample), sampled)
    largest = fields.channels[5].amax()
    fields.reference[0] = torch.maximum(fields.reference[0], largest)


def _find_reference(fields: Fields, x: Tensor) -> None:
    """Where nothing was seen before, the largest finite magnitude of this tensor."""
    known = fields.reference
    if x.device.type == "cpu" and known.item() > 0:
        return
    largest = torch.where(x.isfinite(), x, 0.0).abs().amax().double()
    known[0] = torch.where(known[0] > 0, known[0], largest)


def _pieces(x: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Matrices of whole tokens, and which axis of them the channels are."""
    outer, length, inner = x.shape
    budget = _PIECE if x.device.type == "cpu" else _PIECE_ON_DEVICE
    count = max(1, budget // length)
    if inner == 1:
        yield from ((part, 1) for part in x.view(outer, length).tensor_split(_cuts(outer, count)))
    else:
        yield from ((part, 0) for image in x for part in image.tensor_split(_cuts(inner, count), 1))


def _cuts(size: int, count: int) -> tuple[int, ...]:
    return tuple(range(count, size, count))


def _piece(x: Tensor, axis: int) -> _Piece:
    if x.device.type == "cpu":
        found = _in_float32(x, axis)
        if found is not None:
            return found
    return _in_float64(x, axis)


def _in_float64(x: Tensor, axis: int) -> _Piece:
    """Any piece; NaN and infinite elements are left out."""
    channels, tokens = Moments.of(x, [1 - axis]), Moments.of(x, [axis])
    n = tokens.n.clamp(min=1)
    square = tokens.m2 / n + tokens.mean * tokens.mean
    return _Piece(
        channels.pack(),
        _Tokens(
            square,
            tokens.absmax,
            tokens.m2 / n,
            tokens.m4 / n,
            tokens.m2 / n <= _CONSTANT * tokens.mean * tokens.mean,
            tokens.n == x.shape[axis],
        ),
        torch.stack([x.isnan().sum(), x.isinf().sum()]),
    )


def _in_float32(x: Tensor, axis: int) -> _Piece | None:
    """A piece whose fourth powers float32 holds; of others nothing."""
    wide, spare, power = _scratch(x)
    wide.copy_(x)
    torch.abs(wide, out=spare)
    of_channels, of_tokens = spare.amax(1 - axis), spare.amax(axis)
    top = float(of_channels.max())
    if not 0.0 < top < math.inf:
        return None
    scale = 1.0 if 2.0**-10 <= top < 2.0**21 else 2.0 ** -math.frexp(top)[1]
    wide.mul_(scale)
    elements = x.shape[1 - axis]
    mean = wide.mean(axis, keepdim=True)
    second, _, fourth = _powers(torch.sub(wide, mean, out=spare), power, axis, third=False)
    pivot = wide.narrow(1 - axis, 0, 1).clone()
    rest = wide.sub_(pivot).mean(1 - axis, keepdim=True)
    powers = _powers(wide.sub_(rest), power, 1 - axis, third=True)
    if _too_small(of_channels * scale, powers[0] / elements) or _too_small(
        of_tokens * scale, second / x.shape[axis]
    ):
        return None
    average = (pivot.double() + rest.double()).flatten() / scale
    sums = [s.double() / scale**k for k, s in enumerate(powers, 2)]
    rows = [torch.full_like(average, elements), average, *sums, of_channels.double()]
    square = mean.flatten().double() ** 2
    variance, kurtic = (s.double() / x.shape[axis] for s in (second, fourth))
    constant, there = variance <= _CONSTANT * square, torch.ones_like(of_tokens, dtype=torch.bool)
    largest, energy = of_tokens.double(), (square + variance) / scale**2
    tokens = _Tokens(energy, largest, variance, kurtic, constant, there)
    return _Piece(torch.stack(rows), tokens, torch.zeros(2, dtype=torch.int64))


def _powers(d: Tensor, power: Tensor, axis: int, *, third: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of second, third and fourth powers of ``d`` over ``axis``; ``d`` is overwritten."""
    torch.mul(d, d, out=power)
    second = power.sum(axis)
    cubes = d.mul_(power).sum(axis) if third else second
    return second, cubes, power.mul_(power).sum(axis)


def _too_small(largest: Tensor, variance: Tensor) -> bool:
    small = ((largest < _TINY) & (largest > 0)) | ((variance < _FLAT) & (variance > 0))
    return bool(small.any())


def _scratch(x: Tensor) -> tuple[Tensor, ...]:
    """Three float32 buffers of the shape of ``x``, kept for the next call of this thread."""
    held: Tensor | None = getattr(_memory, "held", None)
    if held is None or held.shape[1] < x.numel():
        held = _memory.held = torch.empty(3, max(_PIECE, x.numel()))
    return tuple(row[: x.numel()].view(x.shape) for row in held)


def _count_tokens(fields: Fields, t: _Tokens) -> None:
    squares, largest, kurtosis, nonfinite = fields.token_histograms()
    some = t.largest > 0
    spread = some & ~t.constant
    ratio = t.fourth / torch.where(spread, t.variance * t.variance, 1.0)
    ones = t.finite.to(torch.int64)
    squares.index_add_(0, MEAN_SQUARE.index(t.square, some), ones)
    largest.index_add_(0, LARGEST.index(t.largest, some), ones)
    kurtosis.index_add_(0, KURTOSIS.index(ratio, spread), ones)
    nonfinite.add_((~t.finite).sum())


def _rows(x: Tensor, sample: Sample) -> Tensor:
    """The sampled tokens as float32 rows."""
    outer, _, inner = x.shape
    if inner == 1:
        return x[sample.offset :: sample.stride, :, 0].float()
    places = torch.arange(sample.offset, outer * inner, sample.stride, device=x.device)
    return x[places // inner, :, places % inner].float()


def _sample(fields: Fields, rows: Tensor, sampled: Sampled) -> None:
    """Histogram and errors of sampled tokens; those with NaN or infinity are in no error."""
    if Sampled.HISTOGRAM in sampled:
        fields.magnitudes.add_(MagnitudeHistogram.of(rows).counts)
    if not sampled & (Sampled.NVFP4 | Sampled.INT4):
        return
    finite = rows.isfinite().all(1, keepdim=True)
    kept = torch.where(finite, rows, 0.0)
    fields.energy[0] += kept.double().square().sum()
    fields.counts[0] += finite.sum() * rows.shape[1]
    fields.counts[1] += (kept != 0).sum()
    if Sampled.NVFP4 in sampled:
        _nvfp4(fields, kept)
    if Sampled.INT4 in sampled:
        _int4(fields, kept)


def _nvfp4(fields: Fields, rows: Tensor) -> None:
    padded = F.pad(rows.abs(), (0, -rows.shape[1] % NVFP4.block))
    blocks = padded.view(rows.shape[0], -1, NVFP4.block)
    amax = fields.reference[0].float()
    _, encode, decode = blockscale.scales(blocks.amax(2, keepdim=True), amax, NVFP4)
    y = blocks * encode
    fields.counts[3] += (y > _SATURATED).sum()
    codes = e2m1_nearest_(y, torch.empty_like(y))
    fields.counts[2] += ((codes == 0) & (blocks != 0)).sum()
    fields.energy[1] += (codes * decode - blocks).double().square().sum()


def _int4(fields: Fields, rows: Tensor) -> None:
    s = integer.scales(rows, INT4, (1,))
    codes = integer.codes(rows, INT4, s)
    fields.counts[4] += ((codes == 0) & (rows != 0)).sum()
    fields.energy[2] += (codes * s.scale - rows).double().square().sum()
