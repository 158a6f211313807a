"""What a sweep shows while it runs: a bar on a terminal, a line per event in a pipe."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from qprobe.cli.durations import spoken
from qprobe.engine import TrainConfig
from qprobe.engine.sweep import Event, Kind, Outcome, State

Watch = Callable[[Event], None]


@contextmanager
def progress(
    cells: Sequence[TrainConfig], out: Path, workers: int, *, quiet: bool
) -> Iterator[Watch]:
    """The right one for where standard error goes."""
    tally = Tally(total=len({cell.hash for cell in cells}), workers=workers)
    if quiet:
        yield tally.count
    elif sys.stderr.isatty():
        with Bar(tally) as bar:
            yield bar.show
    else:
        print(f"{tally.total} cells in {out}, {workers} workers", file=sys.stderr, flush=True)
        yield Lines(tally).show


@dataclass(kw_only=True)
class Tally:
    """How many cells are where, and how long the rest may take."""

    total: int
    workers: int
    running: set[str] = field(default_factory=set)
    done: int = 0
    failed: int = 0
    ended: int = 0
    seconds: list[float] = field(default_factory=list)

    def count(self, event: Event) -> None:
        """Take an event in."""
        if event.kind is Kind.STARTED:
            self.running.add(event.cell.hash)
            return
        self.running.discard(event.cell.hash)
        if event.outcome is not None:
            self._end(event.outcome)

    def _end(self, outcome: Outcome) -> None:
        self.ended += 1
        self.done += outcome.state in (State.FINISHED, State.ALREADY)
        self.failed += outcome.state is State.FAILED
        if outcome.state is State.FINISHED and outcome.seconds is not None:
            self.seconds.append(outcome.seconds)

    @property
    def left_s(self) -> float | None:
        """Mean time of a cell × cells to come / workers; None until a cell is finished."""
        coming = self.total - self.ended
        if not self.seconds or not coming:
            return None
        return sum(self.seconds) / len(self.seconds) * coming / min(self.workers, coming)

    def line(self) -> str:
        """Where it stands."""
        left = "" if self.left_s is None else f", about {spoken(self.left_s)} left"
        return f"{self.done} done, {len(self.running)} running, {self.failed} failed{left}"


class Lines:
    """One plain line for whatever happens to a cell."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def show(self, event: Event) -> None:
        """Print it."""
        self._tally.count(event)
        what = describe(event)
        if event.kind is Kind.ENDED:
            what = f"[{self._tally.ended}/{self._tally.total}] {what} ({self._tally.line()})"
        print(what, file=sys.stderr, flush=True)


class Bar:
    """A bar, with a line above it for what went wrong."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._progress = Progress(
            TextColumn("cells"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=tally.total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Move the bar."""
        self._tally.count(event)
        ended_well = event.outcome is not None and event.outcome.state in (
            State.FINISHED,
            State.ALREADY,
        )
        if not (event.kind is Kind.STARTED or ended_well):
            self._progress.console.print(
                describe(event), markup=False, highlight=False, soft_wrap=True
            )
        self._progress.update(
            self._task, completed=self._tally.ended, description=escape(self._tally.line())
        )


def describe(event: Event) -> str:
    """What happened, in words."""
    name, outcome = event.cell.name, event.outcome
    if outcome is None:
        because = "" if event.reason is None else f": {event.reason}"
        return f"{event.kind} {name}{because}"
    took = "" if outcome.seconds is None else f" after {spoken(outcome.seconds)}"
    because = "" if outcome.reason is None else f": {outcome.reason}"
    return f"{outcome.state} {name}{took}{because}"
