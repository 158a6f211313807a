"""Filling a summary with PyTorch, in pieces that stay in cache: where the kernel is not.

The numbers are the kernel's, to what :mod:`qprobe.probes.summary` says. Nothing is read back from
an accelerator: there each piece takes the float64 path, which needs no decision.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from qprobe.native import Sampled
from qprobe.probes.summary_fields import KURTOSIS, LARGEST, MEAN_SQUARE, Fields, Sample
from qprobe.probes.summary_float32 import Piece, sums, sums_of_channels
from qprobe.probes.summary_powers import powers
from qprobe.probes.summary_sampled import read_sample
from qprobe.stats.moments import Moments

#: Elements of a piece: few enough that intermediate results stay in the last-level cache, enough
#: that the calls into PyTorch count little.
_PIECE = 1 << 18
_PIECE_ON_DEVICE = 1 << 24
#: Below a variance of (2^-21 mean)² float32 does not tell a token from a constant.
_CONSTANT = 2.0**-42
#: Edges of the token histograms, where each begins in :attr:`Fields.tokens`, and by which power of
#: the scale its values are multiplied.
#: The exponent of 1 in float32.
_BIAS = 127
_PLACES = (
    (MEAN_SQUARE, 0, 2),
    (LARGEST, MEAN_SQUARE.bins + 1, 1),
    (KURTOSIS, MEAN_SQUARE.bins + LARGEST.bins + 2, 0),
)
_LOWEST = torch.tensor([start for _, start, _ in _PLACES], dtype=torch.int32)[:, None]
_HIGHEST = _LOWEST + torch.tensor([edges.bins - 1 for edges, *_ in _PLACES])[:, None].int()


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
    if x.device.type != "cpu" or not _read_powers(fields, x, pieces):
        _read_centred(fields, pieces)
    if sampled:
        read_sample(fields, x, sampled, sample)
    torch.maximum(fields.reference, fields.channels[5].amax(), out=fields.reference)


def _read_powers(fields: Fields, x: Tensor, pieces: list[Piece]) -> bool:
    """Add the tensor by sums of powers, but for channels and tokens that they do not hold."""
    found = powers(x, pieces, float(fields.reference))
    if found is None:
        return False
    if len(found.left):
        found.channels[:, found.left] = _of_channels(x, found.left)
    tokens = found.tokens
    if len(found.tokens_left):
        places, inner = found.tokens_left, x.shape[2]
        one = _in_float64(x[places // inner, :, places % inner], 1)
        _count_tokens(fields, one.tokens)
        fields.nonfinite.add_(one.nonfinite)
        kept = torch.ones(tokens.shape[1], dtype=torch.bool)
        kept[places] = False
        tokens = tokens[:, kept]
    _count_plain_tokens(fields, tokens, found.scale)
    _add_moments(fields, [found.channels[:, None]])
    return True


def _of_channels(x: Tensor, numbers: Tensor) -> Tensor:
    """``[6, numbers]``: moments of these channels alone, about their means."""
    rows = x.transpose(0, 1).index_select(0, numbers).flatten(1)
    parts = rows.tensor_split(_cuts(len(rows), max(1, _PIECE // rows.shape[1])))
    found = [sums_of_channels(part) for part in parts]
    return torch.cat(
        [
            Moments.of(part, [1]).pack() if one is None else one
            for one, part in zip(found, parts, strict=True)
        ],
        1,
    )


def _read_centred(fields: Fields, pieces: list[Piece]) -> None:
    """Add the tensor by sums about means, piece by piece."""
    on_cpu = fields.channels.device.type == "cpu"
    found = [*_in_float32(pieces)] if on_cpu else [_in_float64(*p) for p in pieces]
    _add_moments(fields, [one.channels for one in found])
    fields.nonfinite.add_(torch.stack([one.nonfinite for one in found]).sum(0))
    tokens = found[0].tokens
    if len(found) > 1:
        tokens = _Tokens(*map(torch.cat, zip(*(one.tokens for one in found), strict=True)))
    _count_tokens(fields, tokens)


def _add_moments(fields: Fields, parts: list[Tensor]) -> None:
    """Merge moments ``[6, parts, channels]`` into those of earlier tensors."""
    if fields.channels.device.type != "cpu" or bool(fields.channels[0].any()):
        parts = [fields.channels[:, None], *parts]
    fields.channels.copy_(_merged(parts))


def _merged(parts: list[Tensor]) -> Tensor:
    together = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
    return together[:, 0] if together.shape[1] == 1 else Moments.unpack(together).total(0).pack()


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


def _count_plain_tokens(fields: Fields, tokens: Tensor, scale: float) -> None:
    """Add mean square, largest magnitude and kurtosis ``[3, tokens]``, all above zero; float32."""
    bins = (tokens.view(torch.int32) >> 21).sub_(_starts(math.frexp(scale)[1] - 1))
    torch.clamp(bins, _LOWEST, _HIGHEST, out=bins)
    fields.tokens.add_(torch.bincount(bins.view(-1), minlength=len(fields.tokens)))


@cache
def _starts(octaves: int) -> Tensor:
    """What is taken off the quarter octaves of values times ``2^octaves`` to get their places."""
    starts = [
        4 * (edges.first + _BIAS + power * octaves) - start for edges, start, power in _PLACES
    ]
    return torch.tensor(starts, dtype=torch.int32)[:, None]


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
