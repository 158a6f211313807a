"""Reads a run, also while it is being written: read-only, in short transactions."""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from qprobe.errors import InputError
from qprobe.records import history, latest
from qprobe.records.lock import is_written
from qprobe.records.schema import (
    Array,
    Cause,
    Column,
    Finding,
    Meta,
    Metric,
    Point,
    Record,
    Role,
    Sample,
    Series,
    Severity,
    Status,
)
from qprobe.records.store import explained, open_for_reading


def open(path: str | os.PathLike[str]) -> "RunReader":  # noqa: A001 - it reads like the built-in
    """Open a run for reading; close it, or use it with ``with``."""
    return RunReader(Path(path).resolve())


class RunReader:
    """One run. Every call sees what was flushed until then; a writer is never held up.

    ``site``, ``role``, ``probe`` and ``key`` are patterns, where ``*`` stands for any text, ``?``
    for one character and ``[abc]`` for one of these. ``steps`` is a ``range``, so its end is not
    included. Threads may share a reader.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_for_reading(path)
        self._turn = threading.RLock()

    @property
    def meta(self) -> Meta:
        """Configuration, environment, recipe, source and status."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT id, created_s, status, reason, config, environment, recipe, source FROM run"
            ).fetchone()
            schema = connection.execute("PRAGMA user_version").fetchone()[0]
        if row is None:
            raise InputError(f"{self.path} holds no run; it was not made by this program.")
        status, reason = Status(row[2]), row[3]
        if status is Status.RUNNING and not is_written(self.path):
            status, reason = Status.INTERRUPTED, "its process ended without closing the run"
        return Meta(
            run=row[0],
            created_s=row[1],
            status=status,
            reason=reason,
            config=json.loads(row[4]),
            environment=json.loads(row[5]),
            recipe=row[6],
            source=row[7],
            schema=schema,
        )

    def columns(
        self, *, site: str = "*", role: str = "*", probe: str = "*", key: str = "*"
    ) -> list[Column]:
        """The columns that scalars were recorded for, in the order in which they were named."""
        with self._reading() as connection:
            found = history.locate(connection, history.MATCHES, (site, role, probe, key))
        return [located.column for located in found]

    def series(self, site: str, role: str, probe: str, key: str) -> Series:
        """The whole history of one column, named exactly; empty where nothing was measured yet."""
        with self._reading() as connection:
            found = history.locate(connection, history.EQUALS, (site, role, probe, key))
            if not found:
                raise InputError(
                    f"{self.path} has no series {Column(site, role, probe, key)}; list them with "
                    "columns()."
                )
            blocks = history.fetch(connection, found[0].blocks)
            return history.series(connection, found[0], blocks)

    def select(
        self,
        *,
        site: str = "*",
        role: str = "*",
        probe: str = "*",
        key: str = "*",
        steps: range | None = None,
    ) -> Iterator[tuple[Column, Series]]:
        """The series of every matching column that has a value in ``steps``, one after another."""
        with self._reading() as connection:
            found = history.locate(connection, history.MATCHES, (site, role, probe, key))
        # Neighbours share blocks: each block is fetched once for all of them.
        for blocks, group in groupby(found, key=lambda located: located.blocks):
            with self._reading() as connection:
                fetched = history.fetch(connection, blocks)
                parts = [
                    (located.column, _within(history.series(connection, located, fetched), steps))
                    for located in group
                ]
            yield from ((column, part) for column, part in parts if len(part))

    def last(
        self,
        *,
        site: str = "*",
        role: str = "*",
        probe: str = "*",
        key: str = "*",
        until: int | None = None,
    ) -> Iterator[tuple[Column, Point]]:
        """The last value of every matching column that has one, up to and including ``until``.

        It reads the end of the file only, whatever came before.
        """
        with self._reading() as connection:
            found = history.locate(connection, history.MATCHES, (site, role, probe, key))
        end = latest.END if until is None else until
        segments = {}
        for place, positions in latest.wanted(found).items():
            with self._reading() as connection:
                segments[place] = latest.of_segment(connection, place, positions, end)
        for located in found:
            point = latest.point(located, segments)
            if point is None and located.single:
                with self._reading() as connection:
                    point = latest.of_single(connection, located.number, end)
            if point is not None:
                yield located.column, point

    def records(
        self,
        *,
        site: str = "*",
        role: str = "*",
        probe: str = "*",
        key: str = "*",
        steps: range | None = None,
    ) -> Iterator[Record]:
        """The scalars that match, column by column and in the order of their steps."""
        run = self.meta.run
        for column, series in self.select(site=site, role=role, probe=probe, key=key, steps=steps):
            for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True):
                yield Record(run, step, *column, value)

    def arrays(
        self,
        *,
        site: str = "*",
        role: str = "*",
        probe: str = "*",
        key: str = "*",
        steps: range | None = None,
    ) -> Iterator[Array]:
        """The arrays that match, by step; each is read when it is asked for."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT array.rowid, step FROM array "  # noqa: S608 - the filter is a constant
                "JOIN series ON series.id = array.series "
                f"WHERE {history.MATCHES} ORDER BY step, series",
                (site, role, probe, key),
            ).fetchall()
        for number, step in found:
            if steps is None or step in steps:
                with self._reading() as connection:
                    row = connection.execute(
                        "SELECT step, site, role, probe, key, dtype, shape, data FROM array "
                        "JOIN series ON series.id = array.series WHERE array.rowid = ?",
                        (number,),
                    ).fetchone()
                if row is not None:  # a resumed writer may have taken it back meanwhile
                    yield _array(row)

    def metrics(self, *, split: str = "*", name: str = "*") -> list[Metric]:
        """The values of whole splits, by step."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT step, split, name, value, epoch FROM metrics "
                "WHERE split GLOB ? AND name GLOB ? ORDER BY step, split, name",
                (split, name),
            ).fetchall()
        return [
            Metric(
                step=row[0], split=row[1], name=row[2], value=history.number(row[3]), epoch=row[4]
            )
            for row in rows
        ]

    def samples(
        self, *, split: str = "*", name: str = "*", steps: range | None = None
    ) -> list[Sample]:
        """The scores of single samples, by step and then in the order they were first given."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT step, split, sample.sample, name, value, epoch, patient FROM score "
                "JOIN sample ON sample.id = score.sample WHERE split GLOB ? AND name GLOB ? "
                "ORDER BY step, name, sample.id",
                (split, name),
            ).fetchall()
        return [
            Sample(
                step=row[0],
                split=row[1],
                sample=row[2],
                name=row[3],
                value=history.number(row[4]),
                epoch=row[5],
                patient=row[6],
            )
            for row in rows
            if steps is None or row[0] in steps
        ]

    def findings(self) -> list[Finding]:
        """What analyses found, in the order in which they said it."""
        with self._reading() as connection:
            rows = connection.execute("SELECT * FROM findings ORDER BY id").fetchall()
        return [_finding(row) for row in rows]

    def close(self) -> None:
        """Let the file go; closing twice is allowed."""
        with self._turn:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        # One transaction, so that a span is not moved between two looks at it; and a short one,
        # since a log cannot shrink past the oldest reader.
        with self._turn, explained(self.path, "reading"):
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("COMMIT")


def _within(series: Series, steps: range | None) -> Series:
    if steps is None:
        return series
    if steps.step < 1:
        raise InputError(f"steps must grow, got {steps}; give a range with a positive stride.")
    kept = (series.steps >= steps.start) & (series.steps < steps.stop)
    kept &= (series.steps - steps.start) % steps.step == 0
    return Series(steps=series.steps[kept], values=series.values[kept])


def _array(row: Sequence[Any]) -> Array:
    step, site, role, probe, key, dtype, shape, data = row
    values = np.frombuffer(data, dtype=dtype).reshape(json.loads(shape))
    return Array(step=step, site=site, role=role, probe=probe, key=key, data=values)


def _finding(row: Sequence[Any]) -> Finding:
    _, analyzer, claim, cause, severity, sites, roles, effect, unit, low, high, n, *texts = row
    control, remedy, reference = texts
    return Finding(
        analyzer=analyzer,
        claim=claim,
        cause=Cause(cause),
        severity=Severity(severity),
        sites=tuple(json.loads(sites)),
        roles=tuple(Role(role) for role in json.loads(roles)),
        effect=effect,
        unit=unit,
        low=low,
        high=high,
        n=n,
        control=control,
        remedy=remedy,
        reference=reference,
    )
