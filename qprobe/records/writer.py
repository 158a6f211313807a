"""Writes a run: collects what is recorded, and puts it into the file at each flush."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from qprobe.errors import InputError, QprobeError
from qprobe.records import store
from qprobe.records.background import BackgroundCommitter
from qprobe.records.catalogue import Catalogue
from qprobe.records.commit import Committer, DirectCommitter
from qprobe.records.filesystem import network_type
from qprobe.records.layout import Batch, Layout
from qprobe.records.lock import WriterLock
from qprobe.records.schema import (
    Array,
    Column,
    Finding,
    Metric,
    Record,
    RunInfo,
    Sample,
    Status,
    is_whole,
)
from qprobe.records.truncate import truncate
from qprobe.records.window import Point, Row, StatusChange, StoredArray, Window


def create(
    path: str | os.PathLike[str],
    info: RunInfo,
    *,
    background: bool = False,
    file_system: store.FileSystemCheck = network_type,
) -> "RunWriter":
    """Start a run in a new file.

    With ``background`` a thread writes, and an error of its appears at the next call; without it
    :meth:`RunWriter.flush` returns when the window is in the file.
    """
    place = _place(path, file_system)
    lock = WriterLock(place)
    try:
        store.create(place, info)
        return RunWriter(place, lock, background=background)
    except BaseException:
        lock.release()
        raise


def resume(
    path: str | os.PathLike[str],
    *,
    after_step: int | None = None,
    background: bool = False,
    file_system: store.FileSystemCheck = network_type,
) -> "RunWriter":
    """Go on with a run.

    What was recorded after ``after_step`` is deleted first, so that a training that goes on from a
    checkpoint does not record a step twice; None keeps everything.
    """
    place = _place(path, file_system)
    store.check_file(place)
    lock = WriterLock(place)
    try:
        return RunWriter(place, lock, background=background, after_step=after_step)
    except BaseException:
        lock.release()
        raise


class RunWriter:
    """The one writer of a run; get it from :func:`create` or :func:`resume`, use it with ``with``.

    Everything between two flushes is written in one transaction, or not at all. Leaving the
    ``with`` block flushes, and sets the status: finished, interrupted by Ctrl-C, or failed with
    the exception as the reason. A writer belongs to one thread of one process.
    """

    def __init__(
        self, path: Path, lock: WriterLock, *, background: bool, after_step: int | None = None
    ) -> None:
        self.path = path
        self._lock = lock
        self._process = os.getpid()
        self._broken: QprobeError | None = None
        self._closed = False
        self._window = Window()
        connection = store.open_for_writing(path)
        try:
            with store.explained(path, "opening"):
                if after_step is not None:
                    truncate(connection, after_step)
                self.run: str = connection.execute("SELECT id FROM run").fetchone()[0]
                self._catalogue = Catalogue(path, connection)
            direct = DirectCommitter(path, connection)
            direct.commit(Window(status=StatusChange(Status.RUNNING, None)))
        except BaseException:
            connection.close()
            raise
        self._committer: Committer = BackgroundCommitter(direct) if background else direct

    def layout(self, columns: Sequence[Column]) -> Layout:
        """Fix the columns of one kind of flush; the same columns give the same layout again.

        Call it once, before the first step: the file learns every name here, and a flush is then a
        row of numbers.
        """
        return self._catalogue.layout(columns, self._open_window())

    def records(self, step: int, batch: Batch) -> None:
        """Record a value for every column of a layout, at a later step than the last.

        The fast way: the values are copied, and cost the same whatever the columns are called.
        """
        window = self._open_window()
        layout = batch.layout
        self._catalogue.check_step(layout, _checked_step(step))
        values = np.array(batch.values, dtype=np.float64)
        present = None if batch.present is None else batch.present.copy()
        if present is not None:
            values[~present] = 0.0  # arbitrary, but always the same bytes
        window.rows.append(Row(layout, int(step), values, present))

    def record(self, step: int, column: Column, value: float) -> None:
        """Record one scalar: for the few that are not part of a layout, such as the loss."""
        window = self._open_window()
        series = self._catalogue.point_series(column, window)
        window.points.append(Point(series, _checked_step(step), float(value)))

    def emit(self, records: Iterable[Record]) -> None:
        """Record the scalars of an analysis; their run is this one."""
        for record in records:
            if record.run not in ("", self.run):
                raise InputError(
                    f"the record {record.column} is of run {record.run!r}, and {self.path} is "
                    f"{self.run!r}; write it to its own file."
                )
            self.record(record.step, record.column, record.value)

    def metrics(self, metrics: Iterable[Metric]) -> None:
        """Record values of whole splits."""
        window = self._open_window()
        for metric in metrics:
            _checked_step(metric.step)
            window.metrics.append(metric)

    def samples(self, samples: Iterable[Sample]) -> None:
        """Record per-sample scores."""
        window = self._open_window()
        for sample in samples:
            _checked_step(sample.step)
            self._catalogue.check_patient(sample)
            window.samples.append(sample)

    def arrays(self, arrays: Iterable[Array]) -> None:
        """Record histograms, spectra, maps or images; the data are copied."""
        window = self._open_window()
        for array in arrays:
            series = self._catalogue.array_series(array.column, window)
            window.arrays.append(StoredArray(series, _copy(array)))

    def findings(self, findings: Iterable[Finding]) -> None:
        """Record what an analysis found."""
        self._open_window().findings.extend(findings)

    def status(self, status: Status, reason: str | None = None) -> None:
        """Say where the run stands; a failed run should say why."""
        self._open_window().status = StatusChange(Status(status), reason)

    def flush(self, *, wait: bool = False) -> None:
        """Write everything recorded since the last flush, in one transaction.

        When it returns the window survives a ``kill -9``; with a background thread, when it
        returns and ``wait`` is true.
        """
        window, self._window = self._open_window(), Window()
        try:
            if window:
                self._commit(window)
            if wait:
                self._committer.wait()
        except QprobeError as error:
            self._broken = error
            raise

    def close(self, status: Status = Status.FINISHED, reason: str | None = None) -> None:
        """Flush, set the status and let the file go; closing twice is allowed."""
        if self._closed or os.getpid() != self._process:
            return
        try:
            if self._broken is None:
                self.status(status, reason)
                self.flush(wait=True)
        finally:
            self._closed = True
            self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        elif isinstance(error, KeyboardInterrupt):
            self.close(Status.INTERRUPTED, "interrupted from the keyboard")
        else:
            self.close(Status.FAILED, f"{type(error).__name__}: {error}")

    def _commit(self, window: Window) -> None:
        try:
            self._committer.commit(window)
        except QprobeError:
            raise
        except BaseException:
            # Ctrl-C, say: the window may be in the file or not, and later ones build on it.
            self._broken = QprobeError(
                f"a flush of {self.path} was interrupted; what was recorded since the flush before "
                "it may be missing: resume the run from an earlier step."
            )
            raise

    def _let_go(self) -> None:
        try:
            self._committer.close()
        except QprobeError as error:
            # The caller has heard of it when it happened.
            if error is not self._broken:
                raise
        finally:
            self._lock.release()

    def _open_window(self) -> Window:
        if self._closed:
            raise QprobeError(f"the writer of {self.path} is closed; resume the run to add to it.")
        if os.getpid() != self._process:
            raise QprobeError(
                f"{self.path} was opened by process {self._process} and process {os.getpid()} was "
                "forked from it; record in the process that opened the run."
            )
        if self._broken is not None:
            raise self._broken
        return self._window


def _place(path: str | os.PathLike[str], file_system: store.FileSystemCheck) -> Path:
    place = Path(path).resolve()
    store.check_location(place, file_system)
    return place


def _checked_step(step: int) -> int:
    if not is_whole(step) or step < 0:
        raise InputError(f"a step is a whole number from 0, got {step!r}.")
    return int(step)


def _copy(array: Array) -> Array:
    return Array(step=_checked_step(array.step), **array.column._asdict(), data=array.data.copy())
