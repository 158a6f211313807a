"""What can be measured of a weight that is stored as codes and scales."""

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor

from qprobe.analyzers.weights.pieces import starts
from qprobe.checkpoints import PackedWeight
from qprobe.native import Sampled
from qprobe.probes.summary import Summary
from qprobe.quant.formats import MXFP4, IntFormat
from qprobe.stats.codes import BlockScales, CodeOccupancy, block_scales, code_occupancy, in_blocks

#: Largest E4M3 scale, and the least one with all its three mantissa bits.
_LARGEST_SCALE = 448.0
_LEAST_NORMAL = 2.0**-6
#: The code of magnitude 3: a power of two that fits leaves the largest of a block at least there.
_THREE = 5
#: Codes ±6 in a block of normal weights, measured: what blocks have where there are no others.
_SIXES = 1.79


def measure(weight: PackedWeight) -> Iterator[tuple[str, float]]:
    """Keys and values of the codes, of the scales and of the decoded values."""
    out, inputs = weight.shape
    yield from (("n", float(out * inputs)), ("out", float(out)), ("in", float(inputs)))
    yield from (("packed", 1.0), ("groups", float(weight.scale.numel())))
    summary = Summary(inputs)
    for first, stop in starts(out, inputs, None):
        summary.observe(weight.rows(first, stop).values(), 1, measure=Sampled.NOTHING)
    for key in ("nan", "infinite", "mean", "std", "absmax", "kurtosis"):
        if key in (scalars := summary.scalars()):
            yield key, float(scalars[key])
    if weight.tensor_scale is not None:
        yield "tensor_scale", float(weight.tensor_scale)
    if weight.input_scale is not None:
        yield from _smoothed(weight.input_scale)
    own = _integers if isinstance(weight.format, IntFormat) else _blocks
    yield from own(weight)


def _smoothed(scale: Tensor) -> Iterator[tuple[str, float]]:
    """What inputs are multiplied with: how far they differ, and those that cannot be meant."""
    good = scale.isfinite() & (scale > 0)
    yield "input_scale_invalid", float((~good).double().mean())
    if bool(good.any()):
        kept = scale[good]
        yield "input_scale_spread", float(kept.amax() / kept.median())


def _blocks(weight: PackedWeight) -> Iterator[tuple[str, float]]:
    scales, occupancy, counts = _counted(weight)
    for key, value in scales.scalars().items():
        if key != "n":
            yield key, float(value)
    for key in ("zero", "largest", "effective_values"):
        if key in (shares := occupancy.scalars()):
            yield f"code_{key}", float(shares[key])
    full, full_top, rest, rest_top, low = counts.tolist()
    if weight.format == MXFP4:
        yield "power_of_two_scales", 1.0
        yield "low_blocks", low / weight.scale.numel()
        return
    yield from _scale_range(weight.scale)
    yield "full_scales", full / weight.scale.numel()
    if full:
        usual = rest_top / rest if rest_top else _SIXES
        yield "full_scale_excess", full_top / full / usual


def _counted(weight: PackedWeight) -> tuple[BlockScales, CodeOccupancy, Tensor]:
    """Scales, codes, and counts of blocks, piece by piece; a packed weight has at least one."""
    found: list[tuple[BlockScales, CodeOccupancy, Tensor]] = []
    for first, stop in starts(weight.shape[0], weight.shape[1], None):
        part = weight.rows(first, stop)
        codes = in_blocks(part.codes, weight.group_size)
        counts = torch.cat([_saturated(part.scale, codes), _low(codes)])
        found.append((block_scales(part.scale, codes), code_occupancy(part.codes), counts))
    return reduce(lambda a, b: (a[0].merge(b[0]), a[1].merge(b[1]), a[2] + b[2]), found)


def _low(codes: Tensor) -> Tensor:
    """Blocks that hold something, and nothing of magnitude 3 or more."""
    largest = (codes & 7).amax(-1)
    return ((largest > 0) & (largest < _THREE)).sum().reshape(1)


def _scale_range(scale: Tensor) -> Iterator[tuple[str, float]]:
    positive = scale > 0
    yield "scale_max", float(scale.amax()) if not scale.isnan().any() else float("nan")
    yield "coarse_scales", float((positive & (scale < _LEAST_NORMAL)).double().mean())


def _saturated(scale: Tensor, codes: Tensor) -> Tensor:
    """Blocks under the largest scale and the codes ±6 in them; the same of all other blocks."""
    at_largest = scale >= _LARGEST_SCALE
    sixes = ((codes & 7) == 7).sum(-1)
    other = ~at_largest & (scale > 0)
    return torch.stack([at_largest.sum(), sixes[at_largest].sum(), other.sum(), sixes[other].sum()])


def _integers(weight: PackedWeight) -> Iterator[tuple[str, float]]:
    if not isinstance(weight.format, IntFormat):
        raise TypeError(f"{weight.format} has no integers")
    bits = weight.format.bits
    counts = torch.zeros(2**bits, dtype=torch.int64)
    for first, stop in starts(weight.shape[0], weight.shape[1], None):
        codes = weight.rows(first, stop).codes.long() + 2 ** (bits - 1)
        counts += torch.bincount(codes.flatten(), minlength=2**bits)
    share = counts.double() / counts.sum()
    used = share[share > 0]
    yield "bits", float(bits)
    yield "code_ends", float(share[:1].sum() + share[-1:].sum())
    yield "effective_values", float((-(used * used.log()).sum()).exp())
    scale = weight.scale
    yield "scale_max", float(scale.amax())
    yield "scale_min", float(scale.amin())
    yield "zero_scale", float((scale == 0).double().mean())
    yield "invalid", float((~scale.isfinite() | (scale < 0)).double().mean())
    yield "unused_groups", _unused(weight)


def _unused(weight: PackedWeight) -> float:
    """Share of groups that reach neither end of the codes and span less than half of them.

    A group of one sign, or of one large value, spans half of them and reaches an end.
    """
    if weight.groups is not None or not isinstance(weight.format, IntFormat):
        return 0.0  # groups of columns that are not neighbours are not looked into
    groups = in_blocks(weight.codes, weight.group_size)
    half = 2 ** (weight.format.bits - 1)
    low, high = groups.amin(-1), groups.amax(-1)
    inside = (low > 1 - half) & (high < half - 1)
    return float((inside & (high - low < half)).double().mean())
