"""Filling a summary with PyTorch, in pieces that stay in cache: where the kernel is not.

The numbers are the kernel's, to what :mod:`qprobe.probes.summary` says. Nothing is read back from
an accelerator: there each piece takes the float64 path, which needs no decision.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qprobe.native import Sampled
from qprobe.probes.summary_fields import KURTOSIS, LARGEST, MEAN_SQUARE, Fields, Sample
from qprobe.probes.summary_float32 import Piece, sums
from qprobe.quant import INT4, NVFP4, blockscale, integer
from qprobe.quant.rounding import e2m1_nearest_
from qprobe.stats.histogram import MagnitudeHistogram
from qprobe.stats.moments import Moments

#: Elements of a piece: few enough that intermediate results stay in the last-level cache, enough
#: that the calls into PyTorch count little.
_PIECE = 1 << 18
_PIECE_ON_DEVICE = 1 << 24
#: Below a variance of (2^-21 mean)² float32 does not tell a token from a constant.
_CONSTANT = 2.0**-42
#: 6 and a margin for the rounding of the scales: ties lie exactly on 6.
_SATURATED = 6.000091552734375


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
    pieces = list(_pieces(x))
    found = [*_in_float32(pieces)] if x.device.type == "cpu" else [_in_float64(*p) for p in pieces]
    parts = [one.channels for one in found]
    if x.device.type != "cpu" or bool(fields.channels[0].any()):  # something was seen before
        parts.insert(0, fields.channels[:, None])
    together = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
    one_part = together.shape[1] == 1
    fields.channels.copy_(together[:, 0] if one_part else Moments.unpack(together).total(0).pack())
    fields.nonfinite.add_(torch.stack([one.nonfinite for one in found]).sum(0))
    tokens = found[0].tokens
    if len(found) > 1:
        tokens = _Tokens(*map(torch.cat, zip(*(one.tokens for one in found), strict=True)))
    _count_tokens(fields, tokens)
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


def _pieces(x: Tensor) -> Iterator[Piece]:
    """Matrices of whole tokens, and which axis of them the channels are."""
    outer, length, inner = x.shape
    budget = _PIECE if x.device.type == "cpu" else _PIECE_ON_DEVICE
    count = max(1, budget // length)
    if inner == 1:
        yield from ((part, 1) for part in x.view(outer, length).tensor_split(_cuts(outer, count)))
    else:
        yield from ((part, 0) for image in x for part in image.tensor_split(_cuts(inner, count), 1))


def _cuts(size: int, count: int) -> tuple[int, ...]:
    """Places that cut ``size`` into pieces of about ``count``, alike in size."""
    pieces = max(1, round(size / count))
    return tuple(size * cut // pieces for cut in range(1, pieces))


def _in_float64(x: Tensor, axis: int) -> _Piece:
    """Any piece; NaN and infinite elements are left out."""
    channels, tokens = Moments.of(x, [1 - axis]), Moments.of(x, [axis])
    n = tokens.n.clamp(min=1)
    square = tokens.m2 / n + tokens.mean * tokens.mean
    return _Piece(
        channels.pack()[:, None],
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


def _in_float32(pieces: list[Piece]) -> Iterator[_Piece]:
    """All pieces that float32 holds as one, and each of the others by itself."""
    found = sums(pieces)
    if len(found.failed) < len(pieces):
        mean, second, fourth, largest = found.tokens
        count = pieces[0][0].shape[pieces[0][1]]
        variance, square = second / count, mean * mean
        constant = variance <= _CONSTANT * square
        energy = (square + variance) / (found.scales * found.scales)
        there = torch.ones_like(constant)
        tokens = _Tokens(energy, largest, variance, fourth / count, constant, there)
        yield _Piece(found.channels, tokens, torch.zeros(2, dtype=torch.int64))
    yield from (_in_float64(*pieces[number]) for number in found.failed)


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
        return x[sample.offset :: sample.stride, :, 0].float().contiguous()
    places = torch.arange(sample.offset, outer * inner, sample.stride, device=x.device)
    return x[places // inner, :, places % inner].float()


def _sample(fields: Fields, rows: Tensor, sampled: Sampled) -> None:
    """Histogram and errors of sampled tokens; those with NaN or infinity are in no error."""
    counted = MagnitudeHistogram.of(rows) if Sampled.HISTOGRAM in sampled else None
    if counted is not None:
        fields.magnitudes.add_(counted.counts)
    if not sampled & (Sampled.NVFP4 | Sampled.INT4):
        return
    kept = rows.abs()
    largest = kept.amax(1, keepdim=True)
    finite = largest < torch.inf
    whole = rows.device.type == "cpu" and bool(finite.all())
    if not whole:
        kept, largest = torch.where(finite, kept, 0.0), torch.where(finite, largest, 0.0)
    there = torch.count_nonzero(kept) if counted is None or not whole else counted.bins.sum()
    fields.energy[0] += _energy(kept)
    fields.counts[0] += finite.sum() * rows.shape[1]
    fields.counts[1] += there
    if Sampled.NVFP4 in sampled:
        _nvfp4(fields, kept, there)
    if Sampled.INT4 in sampled:
        _int4(fields, kept, largest, there)


def _some(levels: Tensor, step: float) -> Tensor:
    """How many are not 0 of levels that are 0 or at least ``step``, a power of two."""
    if levels.device.type != "cpu" or levels.numel() > 1 << 23:  # float32 counts no further
        return torch.count_nonzero(levels)
    return (levels.clamp(max=step).sum() / step).long()


def _energy(x: Tensor) -> Tensor:
    """``Σx²``; what float32 might not hold, and on a device all, is squared in float64."""
    squares = (x * x).sum(-1).double().sum()
    if x.device.type == "cpu" and 2.0**-90 * x.numel() < float(squares) < torch.inf:
        return squares
    return x.double().square().sum()


def _nvfp4(fields: Fields, rows: Tensor, there: Tensor) -> None:
    """Errors of magnitudes."""
    padding = -rows.shape[1] % NVFP4.block
    blocks = (F.pad(rows, (0, padding)) if padding else rows).view(rows.shape[0], -1, NVFP4.block)
    # Bits order magnitudes as the numbers do, and short rows of integers are faster.
    largest = blocks.view(torch.int32).amax(2, keepdim=True).view(torch.float32)
    _, encode, decode = blockscale.scales(largest, fields.reference[0].float(), NVFP4)
    y = blocks * encode
    if y.device.type != "cpu" or float(y.amax()) > _SATURATED:
        fields.counts[3] += torch.count_nonzero(y > _SATURATED)
    codes = e2m1_nearest_(y, torch.empty_like(y))
    fields.counts[2] += there - _some(codes, 0.5)
    fields.energy[1] += _energy(codes.mul_(decode).sub_(blocks))


def _int4(fields: Fields, rows: Tensor, largest: Tensor, there: Tensor) -> None:
    """Errors of magnitudes, the largest of each row at hand."""
    s = integer.scales(largest, INT4, (1,))
    codes = integer.codes(rows, INT4, s)
    fields.counts[4] += there - _some(codes, 1.0)
    fields.energy[2] += _energy(codes.mul_(s.scale).sub_(rows))
