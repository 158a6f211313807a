"""Workers as processes of this machine, each with one thread, each replaceable.

A worker is started anew (*spawn*), so it inherits neither locks nor threads, and it is in a process
group of its own, so that Ctrl-C in a terminal reaches it once, through the sweep. When the sweep
itself is killed, its workers notice, let their cell finish its step and save, and end.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection as connections
from multiprocessing.connection import Connection
from typing import Final

from qprobe.engine.sweep.attend import Ended, Ending, attend
from qprobe.engine.sweep.cell import Cell, RunCell
from qprobe.errors import InputError, QprobeError

#: Workers that die before they are ready, in a row, until starting more is given up.
_STILLBORN = 5
#: Time for an idle worker to end by itself.
_PATIENCE_S = 5.0
_READY: Final = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """Cells in ``workers`` local processes with one thread each."""

    workers: int = 2

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"a sweep needs at least 1 worker, got {self.workers}.")

    @contextmanager
    def open(self, run_cell: RunCell) -> Iterator["ProcessExecutor"]:
        """Workers, started when a cell is there for them."""
        executor = ProcessExecutor(pickled(run_cell), self.workers)
        try:
            yield executor
        finally:
            executor.close()


def pickled(run_cell: RunCell) -> bytes:
    """``run_cell`` as it travels to a worker."""
    try:
        return pickle.dumps(run_cell)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"{run_cell!r} cannot be sent to a worker: {error}; give a function of a module."
        ) from None


class ProcessExecutor:
    """Up to ``slots`` worker processes; get it from :class:`Processes`."""

    def __init__(self, payload: bytes, slots: int) -> None:
        self.slots = slots
        self._payload = payload
        self._workers: list[_Worker] = []
        self._stillborn = 0

    def submit(self, cell: Cell) -> None:
        worker = next((one for one in self._workers if one.cell is None), None)
        if worker is None:
            worker = _Worker(self._payload)
            self._workers.append(worker)
        worker.give(cell)

    def wait(self, timeout_s: float) -> list[Ended]:
        sources = [source for one in self._workers for source in one.sources]
        if sources:
            connections.wait(sources, timeout_s)
        return [ended for one in tuple(self._workers) for ended in self._hear(one)]

    def interrupt(self) -> None:
        for worker in self._workers:
            worker.interrupt()

    def kill(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        self._let_go()

    def close(self) -> None:
        """End idle workers by asking, those with a cell by an interrupt and then by force."""
        for worker in self._workers:
            worker.interrupt()
            worker.dismiss()
        for worker in self._workers:
            worker.process.join(_PATIENCE_S)
            worker.process.kill()
        self._let_go()

    def _let_go(self) -> None:
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers.clear()

    def _hear(self, worker: "_Worker") -> Iterator[Ended]:
        heard, alive = worker.hear()
        for message in heard:
            if message == _READY:
                self._stillborn, worker.ready = 0, True
            elif isinstance(message, Ended):
                worker.cell = None
                yield message
            else:
                raise InputError(f"a worker cannot load what it is to run: {message}.")
        if not alive:
            self._workers.remove(worker)
            worker.connection.close()
            yield from self._bury(worker)

    def _bury(self, worker: "_Worker") -> Iterator[Ended]:
        how = _how_it_ended(worker.process.exitcode)
        if not worker.ready:
            self._stillborn += 1
            if self._stillborn >= _STILLBORN:
                raise QprobeError(
                    f"{_STILLBORN} workers in a row ended before they were ready, the last "
                    f"{how}; a script that starts a sweep needs `if __name__ == '__main__':`."
                )
        if worker.cell is not None:
            yield Ended(hash=worker.cell.hash, ending=Ending.LOST, reason=f"its worker was {how}")


class _Worker:
    """This side of one worker process."""

    def __init__(self, payload: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=work, args=(theirs, payload), name="qprobe-sweep", daemon=False
        )
        self.cell: Cell | None = None
        self.ready = False
        # The child inherits the mask: a Ctrl-C before its handler stands waits until it does.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    @property
    def sources(self) -> tuple[Connection, int]:
        return self.connection, self.process.sentinel

    def give(self, cell: Cell) -> None:
        self.cell = cell
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its death is heard next
            self.connection.send(cell)

    def dismiss(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(None)

    def interrupt(self) -> None:
        if self.cell is not None and self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, signal.SIGINT)

    def hear(self) -> tuple[list[object], bool]:
        """What it said since the last time, and whether it lives."""
        alive, heard = self.process.is_alive(), []  # asked first: a last word is still heard
        try:
            while self.connection.poll():
                heard.append(self.connection.recv())
        except (EOFError, OSError):
            self.process.join()
            alive = False
        return heard, alive


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name} (out of memory, perhaps)"
    return f"gone with exit code {exit_code}"


def work(connection: Connection, payload: bytes) -> None:
    """The life of a worker process."""
    with contextlib.suppress(PermissionError):  # a session leader has its own group already
        os.setpgid(0, 0)
    interrupts = _Interrupts()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        run_cell: RunCell = one_thread_only(payload)
    except Exception as error:  # noqa: BLE001 - told to the sweep, which stops with it
        connection.send(f"{type(error).__name__}: {error}")
        return
    try:
        connection.send(_READY)
        while (cell := connection.recv()) is not None:
            connection.send(_attend(cell, run_cell, interrupts))
            if interrupts.heard:
                return  # by the sweep, which ends, or by somebody else: then another takes over
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the sweep is gone


def one_thread_only(payload: bytes) -> RunCell:
    """Load ``run_cell`` in a process that computes with one thread from now on."""
    # Before anything is imported that reads these once.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    run_cell: RunCell = pickle.loads(payload)  # noqa: S301 - from the sweep that started us
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return run_cell


def _attend(cell: Cell, run_cell: RunCell, interrupts: "_Interrupts") -> Ended:
    try:
        with interrupts.heeded():
            return attend(cell, run_cell)
    except KeyboardInterrupt:  # before or after the training itself
        return Ended(hash=cell.hash, ending=Ending.INTERRUPTED)


class _Interrupts:
    """SIGINT as an exception inside a cell, and remembered everywhere."""

    def __init__(self) -> None:
        self.heard = False
        self._inside = False
        signal.signal(signal.SIGINT, self._hear)

    @contextmanager
    def heeded(self) -> Iterator[None]:
        self._inside = True
        try:
            if self.heard:
                raise KeyboardInterrupt
            yield
        finally:
            self._inside = False

    def _hear(self, *_: object) -> None:
        self.heard = True
        if self._inside:
            raise KeyboardInterrupt


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
