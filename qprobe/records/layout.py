"""How the columns of a flush lie in the file.

A *layout* is the fixed list of columns of one kind of flush. The flush of one step is a row of
values, stored in pieces of ``SEGMENT`` columns. When a segment has ``SPAN`` such rows they are
transposed into chunks of ``BLOCK`` columns × the steps of the span, so that a series is read from a
few small chunks instead of from every step.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qprobe.errors import InputError
from qprobe.records.schema import Column

# These three are part of the file format: a file written with others would be misread.
BLOCK = 32  # columns: with a span of 64 steps a chunk is 8 or 16 kB, a few pages
SEGMENT = 2048  # columns: an unfinished span is at most 63 pieces of 8 or 16 kB to a series
SPAN = 64  # steps


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """The columns of one kind of flush, in order; made by :meth:`RunWriter.layout`."""

    number: int
    columns: tuple[Column, ...]
    series: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.columns)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """What one flush measured: a float64 value per column of its layout.

    ``present`` is False where a column was not measured at this step; None means that all were.
    """

    layout: Layout
    values: NDArray[np.float64]
    present: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        expected = (len(self.layout),)
        for name, array in (("values", self.values), ("present", self.present)):
            if array is not None and array.shape != expected:
                raise InputError(
                    f"{name} of a batch have shape {array.shape}; the layout has {expected}: "
                    "give one per column."
                )
        if self.present is not None and self.present.dtype != np.bool_:
            raise InputError(
                f"present of a batch has dtype {self.present.dtype}; give booleans, one per column."
            )


def segments(columns: int) -> Iterator[tuple[int, slice]]:
    """The segments of a layout of so many columns, each with its place in a row.

    >>> list(segments(2050))
    [(0, slice(0, 2048, None)), (1, slice(2048, 2050, None))]
    """
    for number, start in enumerate(range(0, columns, SEGMENT)):
        yield number, slice(start, min(start + SEGMENT, columns))


def blocks(segment: int, columns: int) -> Iterator[tuple[int, slice]]:
    """The blocks of a segment of so many columns: number in the layout, place in the segment.

    >>> list(blocks(1, 40))
    [(64, slice(0, 32, None)), (65, slice(32, 40, None))]
    """
    first = segment * (SEGMENT // BLOCK)
    for number, start in enumerate(range(0, columns, BLOCK)):
        yield first + number, slice(start, min(start + BLOCK, columns))
