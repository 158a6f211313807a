"""Runs what is missing, the cells that unlock most work first, and keeps each result at once."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import results
from cell import Cell, closure, hashes
from results import Result, StageResults
from training import is_trained
from workers import Outcome, Workers

#: How long to wait for a worker before the clock of ``limit_s`` is looked at again.
_LOOK_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a study keeps its runs and its results; both hold one folder per scale."""

    scale: str
    out: Path
    stored: Path = results.FOLDER

    @property
    def runs(self) -> Path:
        """The folder that the stages are given."""
        return self.out / self.scale


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done: cells by name, their hashes, and the names of those that are due."""

    cells: Mapping[str, Cell]
    hashes: Mapping[str, str]
    due: frozenset[str]

    @property
    def estimate_s(self) -> float:
        """Seconds of one core that the due cells are thought to take."""
        return sum(self.cells[name].estimate_s for name in self.due)


def plan(
    cells: Mapping[str, Cell], asked: Collection[str], place: Place, *, again: bool = False
) -> Work:
    """The cells ``asked`` for by name that have no result of theirs yet, with what they need.

    A training that was measured and whose checkpoint is gone is due again only where a due cell
    reads it.
    """
    known = hashes(cells)
    kept = {name: results.load(place.stored, place.scale, name) for name in _stages(cells)}
    due = {
        name
        for name, cell in cells.items()
        if name in asked and (again or not _is_kept(kept[cell.stage], cell, known[name]))
    }
    for name in closure(due, cells) - due:
        if not is_trained(place.runs / name, cells[name].settings):
            due.add(name)
    return Work(cells=cells, hashes=known, due=frozenset(due))


def _stages(cells: Mapping[str, Cell]) -> list[str]:
    return sorted({cell.stage for cell in cells.values()})


def _is_kept(kept: StageResults, cell: Cell, wanted: str) -> bool:
    found = kept.results.get(cell.key)
    return found is not None and found.hash == wanted


class Campaign:
    """The due cells on some workers, until all is done, the time is over or somebody stops it."""

    def __init__(self, work: Work, place: Place, machine: Mapping[str, Any]) -> None:
        self.work, self.place, self.machine = work, place, machine
        self._kept: dict[str, StageResults] = {}
        self._waiting = set(work.due)
        self._done: list[Outcome] = []
        self.failed: dict[str, str] = {}
        self._began = time.monotonic()

    def run(self, count: int, threads: int = 1, limit_s: float | None = None) -> bool:
        """Whether everything that was due is measured."""
        self._began = time.monotonic()
        with Workers(count, self.place.runs, threads) as workers:
            while self._feed(workers):
                for outcome in workers.ended(_LOOK_S):
                    self._take(outcome, workers)
                if limit_s is not None and time.monotonic() - self._began > limit_s:
                    left = len(self._waiting) + len(workers.running)
                    print(f"The time is over; {left} cells are left: run again to go on.")
                    return False
        return not self.failed and not self._waiting

    def _feed(self, workers: Workers) -> bool:
        """Give every free worker a cell that waits for nothing; False when nothing goes on."""
        running = {cell.name for cell in workers.running}
        while workers.free and (name := self._next(running)):
            self._waiting.remove(name)
            running.add(name)
            workers.begin(self.work.cells[name])
        return bool(running)

    def _next(self, running: set[str]) -> str | None:
        """The cell that unlocks the most work, of those that wait for nothing."""
        unfinished = self._waiting | running | self.failed.keys()
        ready = [
            name
            for name in self._waiting
            if not unfinished.intersection(self.work.cells[name].needs)
        ]
        return max(ready, key=lambda name: (self._reach_s(name), name), default=None)

    def _reach_s(self, name: str) -> float:
        """Seconds of a cell and of the longest one that waits for it."""
        after = [
            self.work.cells[other].estimate_s
            for other in self._waiting
            if name in self.work.cells[other].needs
        ]
        return self.work.cells[name].estimate_s + max(after, default=0.0)

    def _take(self, outcome: Outcome, workers: Workers) -> None:
        name = outcome.cell.name
        if outcome.values is None:
            self.failed[name] = outcome.error or ""
            print(f"{name} failed:\n{outcome.error}", flush=True)
            return
        self._done.append(outcome)
        self._keep(outcome)
        print(self._line(outcome, workers), flush=True)

    def _keep(self, outcome: Outcome) -> None:
        """Into the file of its stage, which is read again: another process may have written it."""
        cell, place = outcome.cell, self.place
        kept = results.load(place.stored, place.scale, cell.stage)
        machine = next((key for key, facts in kept.machines.items() if facts == self.machine), None)
        machine = machine or f"m{len(kept.machines)}"
        current = {one.key for one in self.work.cells.values() if one.stage == cell.stage}
        found = {key: one for key, one in kept.results.items() if key in current}
        found[cell.key] = Result(
            hash=self.work.hashes[cell.name],
            settings=dict(cell.settings),
            cpu_s=round(outcome.cpu_s, 1),
            wall_s=round(outcome.wall_s, 1),
            machine=machine,
            values=outcome.values or {},
        )
        machines = {**kept.machines, machine: self.machine}
        kept = replace(kept, results=found, machines=machines)
        results.save(place.stored, place.scale, cell.stage, kept)

    def _line(self, outcome: Outcome, workers: Workers) -> str:
        """Which cell ended, what it took, and how long the others will."""
        spent = time.monotonic() - self._began
        done = sum(one.cell.estimate_s for one in self._done)
        left = sum(self.work.cells[name].estimate_s for name in self._waiting)
        left += sum(cell.estimate_s for cell in workers.running) / 2
        minutes = left * spent / done / 60 if done else 0.0
        return (
            f"[{len(self._done)}/{len(self.work.due)}] {outcome.cell.name}  "
            f"{outcome.cpu_s:.1f} s  about {minutes:.0f} min left"
        )
