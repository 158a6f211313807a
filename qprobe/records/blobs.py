"""Numbers as bytes: little-endian, as narrow as is exact, with what is missing set apart.

Most statistics come from float32 kernels. Values that all survive the way to float32 and back are
stored in single the space; the bits that come back are the same.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Packed(NamedTuple):
    """What a row of the file holds: dtype, a bit per value (None: all are there), the values."""

    dtype: str
    present: bytes | None
    data: bytes | memoryview


def narrowed(values: Values) -> NDArray[Any]:
    """``values`` as float32 where every one of them, NaN and infinity included, is the same there.

    >>> narrowed(np.array([1.5, np.nan, -np.inf])).dtype, narrowed(np.array([0.1])).dtype
    (dtype('float32'), dtype('float64'))
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        single = values.astype("<f4")
    same = np.array_equal(single.astype(np.float64).view(np.int64), values.view(np.int64))
    return single if same else values.astype("<f8", copy=False)


def pack(values: NDArray[Any], present: Mask | None) -> Packed:
    """A float32 or float64 array of any shape, in C order, with the values that are there."""
    there = None if present is None else _bits(present)
    return Packed(values.dtype.str, there, values.tobytes())


def pack_parts(
    values: NDArray[Any], present: Mask | None, parts: Iterable[slice]
) -> Iterator[Packed]:
    """Slices along the first axis, each as :func:`pack` would give it, without a copy.

    The writing thread holds Python's lock here, which the training step waits for.
    """
    dtype, row = values.dtype.str, values[0].nbytes
    data = np.ascontiguousarray(values).data.cast("B")
    for part in parts:
        there = None if present is None else _bits(present[part])
        yield Packed(dtype, there, data[part.start * row : part.stop * row])


def unpack(packed: Packed) -> tuple[NDArray[Any], Mask | None]:
    """What :func:`pack` was given, flat; the values are a read-only view of the bytes."""
    values = np.frombuffer(packed.data, dtype=packed.dtype)
    if packed.present is None:
        return values, None
    bits = np.frombuffer(packed.present, dtype=np.uint8)
    return values, np.unpackbits(bits, count=values.size, bitorder="little").view(np.bool_)


def pack_steps(steps: NDArray[np.int64]) -> bytes:
    """Steps as little-endian int64."""
    return steps.astype("<i8", copy=False).tobytes()


def unpack_steps(data: bytes) -> NDArray[np.int64]:
    """What :func:`pack_steps` was given."""
    return np.frombuffer(data, dtype="<i8").astype(np.int64, copy=False)


def little_endian(array: NDArray[Any]) -> NDArray[Any]:
    """The same values, contiguous and little-endian, in the same shape (0-d stays 0-d)."""
    return np.asarray(array.astype(array.dtype.newbyteorder("<"), copy=False), order="C")


def _bits(present: Mask) -> bytes | None:
    return None if present.all() else np.packbits(present, bitorder="little").tobytes()
