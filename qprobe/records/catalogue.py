"""What a writer knows about its file: numbers of columns and layouts, and which steps they have."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qprobe.errors import InputError
from qprobe.records.layout import Layout
from qprobe.records.schema import Column, Sample
from qprobe.records.window import NewSeries, Window


class Catalogue:
    """Numbers and last steps, kept in memory so that recording never asks the file.

    It keeps one promise of the file: a column has at most one value at a step. A column is recorded
    either in layouts or by itself; layouts that share columns take turns at different steps.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._numbers = {
            Column(*row[1:]): row[0]
            for row in connection.execute("SELECT id, site, role, probe, key FROM series")
        }
        self._single = {row[0] for row in connection.execute("SELECT DISTINCT series FROM point")}
        self._patients: dict[tuple[str, str], str | None] = {
            (split, sample): patient
            for split, sample, patient in connection.execute(
                "SELECT split, sample, patient FROM sample"
            )
        }
        self._layouts: dict[bytes, Layout] = {}
        self._sharing: dict[int, list[int]] = {}
        self._last_step: dict[int, int] = {}
        self._in_layouts: set[int] = set()
        names = {number: column for column, number in self._numbers.items()}
        for (number,) in connection.execute("SELECT id FROM layout ORDER BY id").fetchall():
            rows = connection.execute(
                "SELECT series FROM layout_column WHERE layout = ? ORDER BY position", (number,)
            )
            series = np.array([row[0] for row in rows], dtype=np.int64)
            columns = tuple(names[known] for known in series.tolist())
            self._add(Layout(number=number, columns=columns, series=series))
            self._last_step[number] = _last_step(connection, number)

    def layout(self, columns: Sequence[Column], window: Window) -> Layout:
        """The layout of these columns; a new one is announced in ``window``."""
        wanted = tuple(Column(*column) for column in columns)
        if len(set(wanted)) != len(wanted) or not wanted:
            twice = next((column for column in wanted if wanted.count(column) > 1), None)
            problem = "has no columns" if twice is None else f"has the column {twice} twice"
            raise InputError(f"a layout for {self._path} {problem}; name each column once.")
        series = np.array([self._number(column, window) for column in wanted], dtype=np.int64)
        if series.tobytes() in self._layouts:
            return self._layouts[series.tobytes()]
        single = self._single.intersection(series.tolist())
        if single:
            column = wanted[series.tolist().index(min(single))]
            raise InputError(
                f"{column} is recorded by itself in {self._path} and cannot be in a layout too; "
                "give one of them another key."
            )
        layout = Layout(number=len(self._layouts) + 1, columns=wanted, series=series)
        self._add(layout)
        window.layouts.append(layout)
        return layout

    def check_step(self, layout: Layout, step: int) -> None:
        """Raise unless ``step`` is new to every column of the layout, and take note of it."""
        if self._layouts.get(layout.series.tobytes()) is not layout:
            raise InputError(
                f"the layout of {len(layout)} columns is not of {self._path}; get one from the "
                "writer that records it."
            )
        last = max(self._last_step[number] for number in self._sharing[layout.number])
        if step <= last:
            raise InputError(
                f"step {step} of the layout with {layout.columns[0]} comes after step {last} in "
                f"{self._path}; steps must grow: resume the run from an earlier step."
            )
        self._last_step[layout.number] = step

    def point_series(self, column: Column, window: Window) -> int:
        """The number of a column that is recorded by itself."""
        number = self._number(column, window)
        if number in self._in_layouts:
            raise InputError(
                f"{Column(*column)} is in a layout of {self._path} and cannot be recorded by "
                "itself too; give one of them another key."
            )
        self._single.add(number)
        return number

    def array_series(self, column: Column, window: Window) -> int:
        """The number of a column that has arrays; it may have scalars too."""
        return self._number(column, window)

    def check_patient(self, sample: Sample) -> None:
        """Raise when a sample is said to be of two patients."""
        known = self._patients.setdefault((sample.split, sample.sample), sample.patient)
        if known != sample.patient:
            raise InputError(
                f"the sample {sample.sample!r} of {sample.split!r} in {self._path} is of patient "
                f"{known!r} and now of {sample.patient!r}; give it one patient."
            )

    def _number(self, column: Column, window: Window) -> int:
        number = self._numbers.get(column)
        if number is None:
            if not all(isinstance(part, str) for part in column):
                raise InputError(
                    f"the column {tuple(column)} for {self._path} has a part that is no text; "
                    "give site, role, probe and key as strings, empty where there is none."
                )
            number = self._numbers[Column(*column)] = len(self._numbers) + 1
            window.series.append(NewSeries(number, Column(*column)))
        return number

    def _add(self, layout: Layout) -> None:
        members = set(layout.series.tolist())
        sharing = [layout.number]
        if self._in_layouts & members:
            for other in self._layouts.values():
                if members.intersection(other.series.tolist()):
                    sharing.append(other.number)
                    self._sharing[other.number].append(layout.number)
        self._sharing[layout.number] = sharing
        self._layouts[layout.series.tobytes()] = layout
        self._last_step[layout.number] = -1
        self._in_layouts |= members


def _last_step(connection: sqlite3.Connection, layout: int) -> int:
    row = connection.execute(
        "SELECT max(coalesce((SELECT max(step) FROM live WHERE layout = ?1), -1), "
        "coalesce((SELECT max(last_step) FROM span WHERE layout = ?1), -1))",
        (layout,),
    ).fetchone()
    return int(row[0])
