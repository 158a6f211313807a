"""The sweep itself: gives cells to workers until every cell has ended."""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep.attend import Ended, Ending
from qprobe.engine.sweep.backend import Backend, Executor
from qprobe.engine.sweep.cell import Cell, RunCell
from qprobe.engine.sweep.processes import Processes
from qprobe.errors import InputError, QprobeError
from qprobe.records.lock import is_written

#: How often a cell is tried when its workers die.
_ATTEMPTS = 2
#: How long a Ctrl-C waits at most to be noticed, and a cell of another sweep to be looked at.
_LOOK_S = 0.2


class State(StrEnum):
    """What became of a cell in this sweep."""

    FINISHED = "finished"
    ALREADY = "already finished"
    """By an earlier sweep, or by another one that shares the folder."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    NOT_STARTED = "not started"


class Kind(StrEnum):
    """What happened to a cell."""

    STARTED = "started"
    RETRIED = "retried"
    WAITS = "waits for another sweep"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of a cell; ``seconds`` is None where this sweep did not train it."""

    cell: Cell
    state: State
    reason: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something to show: ``outcome`` with ``ENDED``, ``reason`` with ``RETRIED``."""

    kind: Kind
    cell: Cell
    outcome: Outcome | None = None
    reason: str | None = None


Watch = Callable[[Event], None]


def _unwatched(event: Event) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """Every cell with what became of it, in the order of the cells."""

    outcomes: tuple[Outcome, ...]
    interrupted: bool

    def of(self, *states: State) -> tuple[Outcome, ...]:
        """The outcomes that are one of these."""
        return tuple(outcome for outcome in self.outcomes if outcome.state in states)


def sweep(
    cells: Sequence[TrainConfig],
    run_cell: RunCell,
    folder: Path,
    *,
    backend: Backend | None = None,
    watch: Watch | None = None,
) -> SweepResult:
    """Train every cell that is not finished, each once, and say what became of each.

    ``run_cell(config, cell folder)`` is called in a worker; it goes on from what the folder holds
    and returns the path of its run file, ``run.qprobe`` in that folder. A cell whose worker dies is
    tried once more; one that raises, or whose run ends as failed, does not keep the others from
    running. Several sweeps may share a folder: a cell that another process trains is waited for.

    Ctrl-C (in the main thread) interrupts the cells that are under way, which save and end; a
    second one ends the workers at once. Run the same sweep again to go on.

    ``backend`` is two local :class:`Processes` unless given; ``watch`` is told of every event.
    """
    planned = list({config.hash: Cell.of(config, folder.resolve()) for config in cells}.values())
    if not planned:
        raise InputError("a sweep needs at least 1 cell, got none; give it configurations.")
    for cell in planned:
        cell.plan()
    campaign = _Campaign(planned, watch or _unwatched)
    campaign.sort_out_finished()
    with _interrupts() as pressed:
        if campaign.waiting:
            with (backend or Processes()).open(run_cell) as executor:
                campaign.run(executor, pressed)
    return campaign.result(interrupted=pressed.count > 0)


@dataclass
class _Pressed:
    count: int = 0


@contextmanager
def _interrupts() -> Iterator[_Pressed]:
    """Counts Ctrl-C instead of raising wherever the sweep happens to be."""
    pressed = _Pressed()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def press(*_: object) -> None:
        pressed.count += 1

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class _Underway:
    cell: Cell
    since: float


@dataclass
class _Campaign:
    cells: list[Cell]
    watch: Watch
    waiting: deque[Cell] = field(default_factory=deque)
    elsewhere: list[Cell] = field(default_factory=list)
    underway: dict[str, _Underway] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def sort_out_finished(self) -> None:
        for cell in self.cells:
            try:
                finished = cell.is_finished()
            except QprobeError as error:
                self.end(Outcome(cell=cell, state=State.FAILED, reason=str(error)))
                continue
            if finished:
                self.end(Outcome(cell=cell, state=State.ALREADY))
            else:
                self.waiting.append(cell)

    def run(self, executor: Executor, pressed: _Pressed) -> None:
        told = False
        while self.underway or ((self.waiting or self.elsewhere) and not pressed.count):
            if pressed.count > 1:
                executor.kill()
                self.give_up()
                return
            if pressed.count and not told:
                executor.interrupt()
                told = True
            if not pressed.count:
                self.fill(executor)
            if self.underway:
                for ended in executor.wait(_LOOK_S):
                    self.take_in(ended)
            elif self.elsewhere:
                time.sleep(_LOOK_S)

    def fill(self, executor: Executor) -> None:
        free = [cell for cell in self.elsewhere if not is_written(cell.folder)]
        self.elsewhere = [cell for cell in self.elsewhere if cell not in free]
        self.waiting.extend(free)
        while self.waiting and len(self.underway) < executor.slots:
            cell = self.waiting.popleft()
            self.underway[cell.hash] = _Underway(cell, time.monotonic())
            executor.submit(cell)
            self.watch(Event(kind=Kind.STARTED, cell=cell))

    def take_in(self, ended: Ended) -> None:
        underway = self.underway.pop(ended.hash)
        cell = underway.cell
        if ended.ending is Ending.BUSY:
            self.elsewhere.append(cell)
            self.watch(Event(kind=Kind.WAITS, cell=cell))
            return
        reason: str | None
        if ended.ending is Ending.LOST and not self.finished_before_loss(cell):
            self.lost[cell.hash] = self.lost.get(cell.hash, 0) + 1
            if self.lost[cell.hash] < _ATTEMPTS:
                self.waiting.appendleft(cell)
                self.watch(Event(kind=Kind.RETRIED, cell=cell, reason=ended.reason))
                return
            state, reason = State.FAILED, f"{ended.reason}, {_ATTEMPTS} times"
        else:
            state, reason = _STATES[ended.ending], ended.reason
        seconds = None if state is State.ALREADY else time.monotonic() - underway.since
        self.end(Outcome(cell=cell, state=state, reason=reason, seconds=seconds))

    @staticmethod
    def finished_before_loss(cell: Cell) -> bool:
        """A worker may die after its run was closed and before it could say so."""
        try:
            return cell.is_finished()
        except QprobeError:
            return False  # what is wrong with the file is said when the cell is tried again

    def give_up(self) -> None:
        for underway in self.underway.values():
            state = State.FINISHED if underway.cell.is_finished() else State.INTERRUPTED
            self.end(Outcome(cell=underway.cell, state=state))
        self.underway.clear()

    def end(self, outcome: Outcome) -> None:
        self.outcomes[outcome.cell.hash] = outcome
        self.watch(Event(kind=Kind.ENDED, cell=outcome.cell, outcome=outcome))

    def result(self, *, interrupted: bool) -> SweepResult:
        return SweepResult(
            outcomes=tuple(
                self.outcomes.get(cell.hash, Outcome(cell=cell, state=State.NOT_STARTED))
                for cell in self.cells
            ),
            interrupted=interrupted,
        )


#: LOST is here for a cell whose run was finished when its worker died.
_STATES = {
    Ending.FINISHED: State.FINISHED,
    Ending.ALREADY: State.ALREADY,
    Ending.FAILED: State.FAILED,
    Ending.INTERRUPTED: State.INTERRUPTED,
    Ending.LOST: State.FINISHED,
}
