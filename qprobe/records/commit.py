"""Writes one window in one transaction.

Rows that complete a span are transposed in the same transaction that adds the last of them: done in
two, a process that dies between them leaves steps that are there twice, or not at all.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from qprobe.errors import InputError
from qprobe.records.blobs import Packed, little_endian, narrowed, pack_parts, pack_steps, unpack
from qprobe.records.layout import SPAN, Layout, blocks, segments
from qprobe.records.schema import Column, Finding, Sample, as_row
from qprobe.records.store import explained, finish
from qprobe.records.window import Row, Window

T = TypeVar("T")

_ADD_FINDING = "INSERT INTO findings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Committer(Protocol):
    """Takes windows; raises, now or at a later call, when one could not be written."""

    def commit(self, window: Window) -> None:
        """Write the window, or see to it that it gets written."""

    def wait(self) -> None:
        """Return when everything that was committed is in the file."""

    def close(self) -> None:
        """Write what is left and let the file go."""


class DirectCommitter:
    """Writes each window before it returns."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        # Per layout: how many rows each segment holds that are not transposed yet.
        self._waiting: dict[int, list[int]] = {}

    def commit(self, window: Window) -> None:
        """Write the window in one transaction; after an error nothing of it is in the file."""
        run = self._connection.execute
        with explained(self._path, "writing"):
            run("BEGIN IMMEDIATE")
            try:
                self._write(window)
                run("COMMIT")
            except BaseException:
                # SQLite rolls back by itself on a full disk; a second time would be an error.
                if self._connection.in_transaction:
                    run("ROLLBACK")
                self._waiting.clear()
                raise

    def wait(self) -> None:
        """Nothing is ever left to wait for."""

    def close(self) -> None:
        """Close the file."""
        with explained(self._path, "closing"):
            finish(self._connection)

    def _write(self, window: Window) -> None:
        many = self._connection.executemany
        many(
            "INSERT INTO series VALUES (?, ?, ?, ?, ?)",
            ((number, *column) for number, column in window.series),
        )
        for layout in window.layouts:
            self._add_layout(layout)
        for row in window.rows:
            # Counted before the row is added: the file is asked at the first one.
            waiting = self._waiting_rows(row.layout)
            self._add_row(row, waiting)
        self._add_points(window)
        self._add_scores(window)
        many(_ADD_FINDING, _findings(window))
        if window.status is not None:
            self._connection.execute("UPDATE run SET status = ?, reason = ?", window.status)

    def _add_layout(self, layout: Layout) -> None:
        self._connection.execute("INSERT INTO layout VALUES (?, ?)", (layout.number, len(layout)))
        self._connection.executemany(
            "INSERT INTO layout_column VALUES (?, ?, ?)",
            ((layout.number, place, series) for place, series in enumerate(layout.series.tolist())),
        )

    def _add_row(self, row: Row, waiting: list[int]) -> None:
        values = narrowed(row.values)
        parts = list(segments(len(row.layout)))
        self._connection.executemany(
            "INSERT INTO live (layout, segment, step, dtype, present, data) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                (row.layout.number, segment, row.step, *packed)
                for (segment, _), packed in zip(
                    parts,
                    pack_parts(values, row.present, (part for _, part in parts)),
                    strict=True,
                )
            ),
        )
        for segment, _ in parts:
            waiting[segment] += 1
            if waiting[segment] >= SPAN:
                self._transpose(row.layout.number, segment)
                waiting[segment] = 0

    def _waiting_rows(self, layout: Layout) -> list[int]:
        if layout.number not in self._waiting:
            count = len(list(segments(len(layout))))
            found = dict(
                self._connection.execute(
                    "SELECT segment, count(*) FROM live WHERE layout = ? GROUP BY segment",
                    (layout.number,),
                )
            )
            # Segments start at different counts, so that their spans end at different steps and
            # no single flush pays for all of them.
            self._waiting[layout.number] = [
                max(SPAN * segment // count, found.get(segment, 0)) for segment in range(count)
            ]
        return self._waiting[layout.number]

    def _transpose(self, layout: int, segment: int) -> None:
        run = self._connection.execute
        rows = run(
            "SELECT step, dtype, present, data FROM live WHERE layout = ? AND segment = ? "
            "ORDER BY step",
            (layout, segment),
        ).fetchall()
        steps = np.array([row[0] for row in rows], dtype=np.int64)
        values = np.stack([np.frombuffer(row[3], row[1]) for row in rows], axis=1)
        there = None
        if any(row[2] is not None for row in rows):
            masks = (unpack(Packed(*row[1:]))[1] for row in rows)
            full = np.ones(len(values), dtype=np.bool_)
            there = np.stack([full if mask is None else mask for mask in masks], axis=1)
        parts = list(blocks(segment, len(values)))
        span = run(
            "INSERT INTO span (layout, segment, first_step, last_step, steps) "
            "VALUES (?, ?, ?, ?, ?)",
            (layout, segment, rows[0][0], rows[-1][0], pack_steps(steps)),
        ).lastrowid
        self._connection.executemany(
            "INSERT INTO chunk (layout, block, span, dtype, present, data) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                (layout, block, span, *packed)
                for (block, _), packed in zip(
                    parts, pack_parts(values, there, (part for _, part in parts)), strict=True
                )
            ),
        )
        run("DELETE FROM live WHERE layout = ? AND segment = ?", (layout, segment))

    def _add_points(self, window: Window) -> None:
        names = dict(window.series)
        self._insert(
            "INSERT INTO point VALUES (?, ?, ?)",
            window.points,
            tuple,
            lambda point: f"step {point.step} of {self._name(names, point.series)}",
        )
        self._insert(
            "INSERT INTO array VALUES (?, ?, ?, ?, ?)",
            window.arrays,
            lambda stored: (stored.series, stored.array.step, *_array(stored.array.data)),
            lambda stored: f"the array of step {stored.array.step} of {stored.array.column}",
        )

    def _add_scores(self, window: Window) -> None:
        self._insert(
            "INSERT INTO metrics (step, split, name, value, epoch) VALUES (?, ?, ?, ?, ?)",
            window.metrics,
            as_row,
            lambda metric: f"the metric {metric.name} of {metric.split} at step {metric.step}",
        )
        self._connection.executemany(
            "INSERT OR IGNORE INTO sample (split, sample, patient) VALUES (?, ?, ?)",
            dict.fromkeys(
                (sample.split, sample.sample, sample.patient) for sample in window.samples
            ),
        )
        self._insert(
            "INSERT INTO score (step, name, value, epoch, sample) SELECT ?, ?, ?, ?, id "
            "FROM sample WHERE split = ? AND sample = ?",
            window.samples,
            _score,
            lambda s: f"{s.name} of the sample {s.sample} of {s.split} at step {s.step}",
        )

    def _insert(
        self,
        sql: str,
        items: Sequence[T],
        row: Callable[[T], Sequence[Any]],
        describe: Callable[[T], str],
    ) -> None:
        before = self._connection.total_changes
        try:
            self._connection.executemany(sql, map(row, items))
        except sqlite3.IntegrityError as error:
            twice = items[self._connection.total_changes - before]
            raise InputError(
                f"{describe(twice)} was recorded twice in {self._path}; record it once, or resume "
                "the run from an earlier step."
            ) from error

    def _name(self, names: Mapping[int, Column], series: int) -> str:
        if series in names:
            return str(names[series])
        row = self._connection.execute(
            "SELECT site || ' ' || role || ' ' || probe || ' ' || key FROM series WHERE id = ?",
            (series,),
        ).fetchone()
        return str(row[0])


def _score(sample: Sample) -> tuple[Any, ...]:
    step, split, name_of_sample, name, value, epoch, _ = as_row(sample)
    return step, name, value, epoch, split, name_of_sample


def _array(data: Any) -> tuple[str, str, bytes]:
    plain = little_endian(data)
    return plain.dtype.str, json.dumps(list(plain.shape)), plain.tobytes()


def _findings(window: Window) -> Iterable[tuple[Any, ...]]:
    def lists(finding: Finding) -> tuple[str, str]:
        return json.dumps(list(finding.sites)), json.dumps(list(finding.roles))

    for f in window.findings:
        yield (
            None,
            *(f.analyzer, f.claim, f.cause, f.severity, *lists(f), float(f.effect), f.unit),
            *(float(f.low), float(f.high), int(f.n), f.control, f.remedy, f.reference),
        )
