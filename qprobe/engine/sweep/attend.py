"""What a worker does with one cell: take it, train it, say how it ended."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from qprobe.engine.sweep.cell import Cell, RunCell
from qprobe.errors import InputError
from qprobe.records import Status
from qprobe.records.lock import WriterLock


class Ending(StrEnum):
    """How an attempt at a cell ended."""

    FINISHED = "finished"
    ALREADY = "already finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    BUSY = "held by another process"
    LOST = "lost with its worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of one attempt, as a worker reports it."""

    hash: str
    ending: Ending
    reason: str | None = None


def attend(cell: Cell, run_cell: RunCell) -> Ended:
    """Train a cell that nobody else is at and that is not finished.

    The kernel drops the lock when this process dies, so that a killed cell is free at once, and a
    cell whose sweep was killed but whose worker still trains is not.
    """
    lock = take(cell)
    if lock is None:
        return Ended(hash=cell.hash, ending=Ending.BUSY)
    try:
        return attempt(cell, run_cell)
    finally:
        lock.release()


def take(cell: Cell) -> WriterLock | None:
    """The right to train a cell, or None where another process has it."""
    try:
        return WriterLock(cell.folder)
    except InputError:
        return None


def attempt(cell: Cell, run_cell: RunCell) -> Ended:
    """Train a cell whose lock is held."""
    try:
        if cell.is_finished():
            return Ended(hash=cell.hash, ending=Ending.ALREADY)
        cell.forget_failure()
        return _judged(cell, run_cell(cell.config, cell.folder))
    except KeyboardInterrupt:
        return Ended(hash=cell.hash, ending=Ending.INTERRUPTED)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - written down, and the sweep goes on
        return Ended(hash=cell.hash, ending=Ending.FAILED, reason=cell.note_failure(error))


def _judged(cell: Cell, run: Path) -> Ended:
    """What the run file says counts, not that a function returned."""
    status, reason = cell.look()
    if status is None:
        raise InputError(
            f"training {cell.name} returned {run} and left no run file in its folder; "
            "write it where the folder argument says."
        )
    if status is Status.FINISHED:
        return Ended(hash=cell.hash, ending=Ending.FINISHED)
    if status is Status.INTERRUPTED:
        return Ended(hash=cell.hash, ending=Ending.INTERRUPTED, reason=reason)
    said = reason or f"training returned while its run was still {status}"
    return Ended(hash=cell.hash, ending=Ending.FAILED, reason=said)
