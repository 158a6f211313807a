"""Worker processes with one thread each, which may fail or be stopped at any time."""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

from cell import Cell, stage

#: Seconds that a worker has to save what it is at when it is asked to stop.
_GRACE_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a cell: values, or the text of the error."""

    cell: Cell
    values: dict[str, Any] | None
    error: str | None
    cpu_s: float
    wall_s: float


class Workers:
    """A few processes that measure cells; leaving the context stops them."""

    def __init__(self, count: int, folder: Path, threads: int = 1) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._arguments = (folder, threads)
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, _Worker] = {}
        self.count = count

    def __enter__(self) -> Self:
        self._idle = [self._start() for _ in range(self.count)]
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (*self._idle, *self._busy.values()):
            worker.interrupt()
        deadline = time.monotonic() + _GRACE_S
        for worker in (*self._idle, *self._busy.values()):
            worker.end(max(0.0, deadline - time.monotonic()))

    @property
    def free(self) -> int:
        """Workers without a cell."""
        return len(self._idle)

    @property
    def running(self) -> list[Cell]:
        """The cells that are being measured."""
        return [worker.cell for worker in self._busy.values() if worker.cell is not None]

    def begin(self, cell: Cell) -> None:
        """Give a cell to a free worker."""
        worker = self._idle.pop()
        worker.give(cell)
        self._busy[worker.connection] = worker

    def ended(self, timeout_s: float | None) -> Iterator[Outcome]:
        """The cells that ended, waiting for the first of them."""
        for ready in wait(list(self._busy), timeout_s):
            assert isinstance(ready, Connection)  # noqa: S101 - what was waited for
            worker = self._busy.pop(ready)
            cell, worker.cell = worker.cell, None
            try:
                values, error, cpu_s, wall_s = ready.recv()
            except (EOFError, ConnectionError):
                worker.end(_GRACE_S)
                values, cpu_s, wall_s = None, 0.0, 0.0
                error = f"the worker died with exit code {worker.process.exitcode}"
                worker = self._start()
            self._idle.append(worker)
            assert cell is not None  # noqa: S101 - a busy worker has one
            yield Outcome(cell=cell, values=values, error=error, cpu_s=cpu_s, wall_s=wall_s)

    def _start(self) -> "_Worker":
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, *self._arguments), daemon=True)
        process.start()
        theirs.close()
        return _Worker(connection=ours, process=process)


@dataclass(kw_only=True, eq=False)
class _Worker:
    connection: Connection
    process: Any
    cell: Cell | None = None

    def give(self, cell: Cell) -> None:
        self.cell = cell
        self.connection.send(cell)

    def interrupt(self) -> None:
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGINT)

    def end(self, timeout_s: float) -> None:
        self.process.join(timeout_s)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


def _work(connection: Connection, folder: Path, threads: int) -> None:
    """Measure cells until there are no more; an interrupt ends it without a word."""
    # A study that a shell started in the background ignores interrupts, and hands that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        while True:
            connection.send(_measured(connection.recv(), folder, threads))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        # Ctrl-C reaches a worker twice, from the terminal and from the parent: the second time it
        # must not interrupt the exit. Nothing is left to flush.
        os._exit(0)


def _measured(
    cell: Cell, folder: Path, threads: int
) -> tuple[dict[str, Any] | None, str | None, float, float]:
    values, error = None, None
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        module = stage(cell.stage)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        values = module.measure(cell, folder)
    except Exception:  # noqa: BLE001 - the study reports it with the name of the cell
        error = traceback.format_exc()
    return values, error, time.process_time() - cpu, time.perf_counter() - wall
