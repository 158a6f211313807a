"""Finds the last value of many columns without reading their histories."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qprobe.records.blobs import Mask, Packed, unpack, unpack_steps
from qprobe.records.history import Located, number
from qprobe.records.layout import BLOCK, SEGMENT
from qprobe.records.schema import Point

#: A step that none comes after.
END = 2**63 - 1
#: By position in a segment: the last step, −1 where there is none, and the value there.
Ends = tuple[list[int], list[float]]
#: Positions of a layout that are wanted, by segment.
Wanted = dict[tuple[int, int], list[int]]


def wanted(found: Iterable[Located]) -> Wanted:
    """Where the columns lie: neighbours share what is read for them."""
    segments: Wanted = {}
    for located in found:
        for place in located.places:
            segment, first = divmod(place.block * BLOCK, SEGMENT)
            segments.setdefault((place.layout, segment), []).append(first + place.row)
    return segments


class Latest:
    """The last values of one segment, filled from the newest row on until all wanted are there."""

    def __init__(self, positions: Sequence[int]) -> None:
        self.steps = np.full(SEGMENT, -1, dtype=np.int64)
        self.values = np.full(SEGMENT, np.nan)
        self._open = np.zeros(SEGMENT, dtype=np.bool_)
        self._open[positions] = True

    @property
    def blocks(self) -> list[int]:
        """The blocks of the segment in which something is still wanted."""
        return np.flatnonzero(self._open.reshape(-1, BLOCK).any(1)).tolist()

    def see(self, first: int, steps: NDArray[np.int64], packed: Packed) -> None:
        """Columns from ``first`` on at growing ``steps``, all before what was seen already."""
        values, present = unpack(packed)
        count = len(values) // len(steps)
        part = slice(first, first + count)
        there: Mask = np.ones(values.shape, np.bool_) if present is None else present
        there, values = there.reshape(count, -1), values.reshape(count, -1)
        found = np.flatnonzero(there.any(1) & self._open[part])
        last = there.shape[1] - 1 - there[found, ::-1].argmax(1)
        self.steps[first + found] = steps[last]
        self.values[first + found] = values[found, last]
        self._open[first + found] = False


def of_segment(
    connection: sqlite3.Connection, place: tuple[int, int], positions: Sequence[int], until: int
) -> Ends:
    """The last step and value of every position, up to ``until``; call it in one transaction."""
    found, (layout, segment) = Latest(positions), place
    live = connection.execute(
        "SELECT step, dtype, present, data FROM live WHERE layout = ? AND segment = ? "
        "AND step <= ? ORDER BY step DESC",
        (layout, segment, until),
    )
    for row in _until_filled(live, found):
        found.see(0, np.array(row[:1], dtype=np.int64), Packed(*row[1:]))
    for block in found.blocks:
        _of_chunks(connection, (layout, block + segment * (SEGMENT // BLOCK)), found, until)
    return found.steps.tolist(), found.values.tolist()


def point(located: Located, segments: Mapping[tuple[int, int], Ends]) -> Point | None:
    """The last value of a column in any of its layouts, which take turns."""
    newest = None
    for layout, block, row in located.places:
        segment, first = divmod(block * BLOCK, SEGMENT)
        steps, values = segments[layout, segment]
        step = steps[first + row]
        if step >= 0 and (newest is None or step > newest.step):
            newest = Point(step, values[first + row])
    return newest


def of_single(connection: sqlite3.Connection, series: int, until: int) -> Point | None:
    """The last value of a column that is recorded by itself."""
    row = connection.execute(
        "SELECT step, value FROM point WHERE series = ? AND step <= ? ORDER BY step DESC LIMIT 1",
        (series, until),
    ).fetchone()
    return None if row is None else Point(row[0], number(row[1]))


def _of_chunks(
    connection: sqlite3.Connection, place: tuple[int, int], found: Latest, until: int
) -> None:
    first = place[1] * BLOCK % SEGMENT
    chunks = connection.execute(
        "SELECT span.steps, chunk.dtype, chunk.present, chunk.data FROM chunk "
        "JOIN span ON span.id = chunk.span WHERE chunk.layout = ? AND chunk.block = ? "
        "AND span.first_step <= ? ORDER BY chunk.span DESC",
        (*place, until),
    )
    for row in chunks:
        steps = unpack_steps(row[0])
        found.see(first, steps, _before(Packed(*row[1:]), steps, until))
        if first // BLOCK not in found.blocks:
            chunks.close()
            return


def _before(packed: Packed, steps: NDArray[np.int64], until: int) -> Packed:
    """The same with what comes after ``until`` marked as not there."""
    if steps[-1] <= until:
        return packed
    values, present = unpack(packed)
    there = np.ones(values.shape, np.bool_) if present is None else present.copy()
    there.reshape(-1, len(steps))[:, steps > until] = False
    return Packed(packed.dtype, np.packbits(there, bitorder="little").tobytes(), packed.data)


def _until_filled(rows: sqlite3.Cursor, found: Latest) -> Iterator[Sequence[Any]]:
    for row in rows:
        yield row
        if not found.blocks:
            rows.close()
            return
