"""From a checkpoint to records: every weight, one after the other, in bounded memory."""

import hashlib
from collections.abc import Iterator
from enum import StrEnum
from math import prod

import torch
from torch import Tensor

from qprobe.analyzers.weights import dense, packed
from qprobe.analyzers.weights.orientation import inputs_first
from qprobe.analyzers.weights.selection import Part, part, site_of, unread
from qprobe.checkpoints import Checkpoint, PackedWeight
from qprobe.errors import UnsuitableError
from qprobe.records.schema import Record, Role

#: What the records are filed under.
PROBE = "weights"
#: How many weights there are, told first.
TOTAL = "weights"
#: Elements of a weight that are quantized to judge it in a hurry.
QUICK = 1 << 20

#: Kinds of tensors in a sentence, after their number.
_CALLED = {
    Part.PRODUCT: "without elements",
    Part.EMBEDDING: "of embeddings",
    Part.NARROW: "with fewer than 8 inputs",
    Part.STACK: "of stacked experts",
    Part.OTHER: "of norms, biases and others",
    Part.UNREAD: "in a packing that is not read",
}


class Depth(StrEnum):
    """How much of each weight is quantized; extremes and moments are of all of it either way."""

    QUICK = "quick"
    """About a million elements, in tiles of 16 outputs spread evenly; with a standard error."""
    FULL = "full"
    """Every element."""


def measure(checkpoint: Checkpoint, depth: Depth) -> Iterator[Record]:
    """Every weight's records, under step 0 and the run they are written to."""
    yield _record("", TOTAL, float(len(checkpoint.weights)))
    parts, elements = dict.fromkeys(Part, 0), dict.fromkeys(Part, 0)
    turned = inputs_first(checkpoint.weights)
    bad = 0.0
    for name in checkpoint.weights:
        stored = checkpoint.read(name)
        if name in turned and isinstance(stored, Tensor):
            stored = stored.transpose(0, 1)
        kind = _part(name, stored)
        parts[kind] += 1
        elements[kind] += prod(stored.shape)
        for key, value in _of(stored, kind, depth):
            bad += value if key in ("nan", "infinite") else 0.0
            yield _record(site_of(name), key, value)
    for kind in Part:
        yield _record("", f"weights_{kind}", float(parts[kind]))
        yield _record("", f"elements_{kind}", float(elements[kind]))
    if not elements[Part.PRODUCT] and not bad:
        raise UnsuitableError(_nothing(checkpoint, parts))


def _part(name: str, stored: Tensor | PackedWeight) -> Part:
    if isinstance(stored, PackedWeight):
        return Part.PRODUCT
    if unread(name, stored):
        return Part.UNREAD
    return part(name, stored.shape) if stored.is_floating_point() else Part.OTHER


def _nothing(checkpoint: Checkpoint, parts: dict[Part, int]) -> str:
    there = ", ".join(f"{count:,} {_CALLED[kind]}" for kind, count in parts.items() if count)
    what = f"what it holds ({there}) is" if there else "it holds no tensor, so there is"
    return (
        f"{checkpoint.path} has nothing to judge: {what} no weight of a linear layer or "
        "convolution with 8 inputs or more; give the weights in high precision, or in a packing "
        "that is read."
    )


def _of(stored: Tensor | PackedWeight, kind: Part, depth: Depth) -> Iterator[tuple[str, float]]:
    if isinstance(stored, PackedWeight):
        yield "judged", 1.0
        yield from packed.measure(stored)
        return
    if kind is Part.UNREAD:
        yield from (("judged", 0.0), ("unread", float(stored.numel())))
        return
    if not stored.is_floating_point() or not stored.numel():
        return
    if kind in (Part.OTHER, Part.STACK):
        yield "judged", 0.0
        yield from _extremes(stored)
        return
    weight = dense.Weight(
        shape=tuple(stored.shape),
        rows=lambda first, stop: stored[first:stop].float().contiguous(),
    )
    yield "judged", float(kind is Part.PRODUCT)
    if depth is Depth.FULL:
        yield "digest", _digest(stored)
    yield from dense.measure(weight, QUICK if depth is Depth.QUICK else None)


def _extremes(stored: Tensor) -> Iterator[tuple[str, float]]:
    values = stored.float()
    finite = values[values.isfinite()]
    yield "n", float(values.numel())
    yield "nan", float(values.isnan().sum())
    yield "infinite", float(values.isinf().sum())
    if finite.numel():
        yield "absmax", float(finite.abs().max())


def _digest(stored: Tensor) -> float:
    """A number that equal tensors share, and others in one of 2⁵² cases."""
    digest = hashlib.blake2b(f"{stored.dtype}{tuple(stored.shape)}".encode(), digest_size=8)
    rows = max(1, (1 << 22) // max(1, stored[0].numel()))
    for first in range(0, len(stored), rows):
        content = stored[first : first + rows].contiguous().view(torch.uint8)
        digest.update(content.numpy().tobytes())
    return float(int.from_bytes(digest.digest(), "little") >> 12)


def _record(site: str, key: str, value: float) -> Record:
    return Record("", 0, site, Role.WEIGHT, PROBE, key, value)
