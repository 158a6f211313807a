"""Finds the values of columns in the file and puts each series together."""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qprobe.records.blobs import Mask, Packed, unpack, unpack_steps
from qprobe.records.layout import BLOCK, SEGMENT
from qprobe.records.schema import Column, Series

#: Filter of four patterns, for site, role, probe and key.
MATCHES = "site GLOB ? AND role GLOB ? AND probe GLOB ? AND key GLOB ?"
#: The same for one column, named exactly.
EQUALS = "site = ? AND role = ? AND probe = ? AND key = ?"


class Place(NamedTuple):
    """Where a layout keeps a column: a block of it, and the column's row in the block."""

    layout: int
    block: int
    row: int


class Located(NamedTuple):
    """A column with everywhere that its values can be."""

    number: int
    column: Column
    places: tuple[Place, ...]
    single: bool  # whether scalars were recorded by themselves

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """The blocks to fetch for it."""
        return [(place.layout, place.block) for place in self.places]


class Piece(NamedTuple):
    """The columns of a block over some steps; ``values`` is columns × steps."""

    steps: NDArray[np.int64]
    values: NDArray[Any]
    present: Mask | None


Blocks = dict[tuple[int, int], list[Piece]]


def locate(connection: sqlite3.Connection, where: str, column: Sequence[str]) -> list[Located]:
    """The columns that match and have scalars, in the order in which they were named."""
    rows = connection.execute(
        "SELECT id, site, role, probe, key, layout, position, "  # noqa: S608 - two constants
        "EXISTS (SELECT 1 FROM point WHERE point.series = id) "
        "FROM series LEFT JOIN layout_column ON layout_column.series = id "
        f"WHERE {where} ORDER BY id, layout",
        tuple(column),
    )
    located = []
    for number, group in groupby(rows, key=lambda row: row[0]):
        members = list(group)
        places = tuple(
            Place(layout, position // BLOCK, position % BLOCK)
            for layout, position in (row[5:7] for row in members)
            if layout is not None
        )
        single = bool(members[0][7])
        if places or single:
            located.append(Located(number, Column(*members[0][1:5]), places, single))
    return located


def fetch(connection: sqlite3.Connection, blocks: Iterable[tuple[int, int]]) -> Blocks:
    """Everything that the file has of some blocks; call it within one transaction."""
    return {(layout, block): _pieces(connection, layout, block) for layout, block in blocks}


def series(connection: sqlite3.Connection, located: Located, blocks: Blocks) -> Series:
    """The series of a column from its fetched blocks and the scalars recorded by themselves."""
    steps: list[NDArray[np.int64]] = []
    values: list[NDArray[Any]] = []
    for place in located.places:
        for piece in blocks[place.layout, place.block]:
            there = None if piece.present is None else piece.present[place.row]
            steps.append(piece.steps if there is None else piece.steps[there])
            row = piece.values[place.row]
            values.append(row if there is None else row[there])
    if located.single:
        rows = connection.execute(
            "SELECT step, value FROM point WHERE series = ? ORDER BY step", (located.number,)
        ).fetchall()
        steps.append(np.array([row[0] for row in rows], dtype=np.int64))
        values.append(np.array([number(row[1]) for row in rows], dtype=np.float64))
    if not steps:
        return Series(steps=np.empty(0, np.int64), values=np.empty(0, np.float64))
    found = Series(steps=np.concatenate(steps), values=np.concatenate(values, dtype=np.float64))
    if len(located.places) > 1:  # layouts take turns; within one the steps grow
        order = np.argsort(found.steps, kind="stable")
        return Series(steps=found.steps[order], values=found.values[order])
    return found


def number(value: float | None) -> float:
    """A value as SQLite returns it: it keeps NaN as NULL."""
    return float("nan") if value is None else value


def _pieces(connection: sqlite3.Connection, layout: int, block: int) -> list[Piece]:
    chunks = connection.execute(
        "SELECT span.steps, chunk.dtype, chunk.present, chunk.data FROM chunk "
        "JOIN span ON span.id = chunk.span WHERE chunk.layout = ? AND chunk.block = ? "
        "ORDER BY chunk.span",
        (layout, block),
    )
    pieces = [_chunk(unpack_steps(row[0]), Packed(*row[1:])) for row in chunks.fetchall()]
    segment, first = divmod(block * BLOCK, SEGMENT)
    live = connection.execute(
        "SELECT step, dtype, present, data FROM live WHERE layout = ? AND segment = ? "
        "ORDER BY step",
        (layout, segment),
    ).fetchall()
    if live:
        pieces.append(_live(live, slice(first, first + BLOCK)))
    return pieces


def _chunk(steps: NDArray[np.int64], packed: Packed) -> Piece:
    values, present = unpack(packed)
    shape = (-1, len(steps))
    return Piece(steps, values.reshape(shape), None if present is None else present.reshape(shape))


def _live(rows: Sequence[Sequence[Any]], part: slice) -> Piece:
    steps = np.array([row[0] for row in rows], dtype=np.int64)
    unpacked = [unpack(Packed(*row[1:])) for row in rows]
    values = np.stack([values[part] for values, _ in unpacked], axis=1)
    if all(present is None for _, present in unpacked):
        return Piece(steps, values, None)
    masks = [
        np.ones(len(values), dtype=np.bool_) if present is None else present[part]
        for _, present in unpacked
    ]
    return Piece(steps, values, np.stack(masks, axis=1))
