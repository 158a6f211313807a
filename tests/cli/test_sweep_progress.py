import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qprobe.cli.sweep_progress import Tally, describe, progress
from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep import Cell, Event, Kind, Outcome, State

CELL = Cell.of(TrainConfig(), Path("runs"))
OTHER = Cell.of(TrainConfig(seed=1), Path("runs"))


def ended(state: State, seconds: float | None = None, reason: str | None = None) -> Event:
    outcome = Outcome(cell=CELL, state=state, seconds=seconds, reason=reason)
    return Event(kind=Kind.ENDED, cell=CELL, outcome=outcome)


STARTED = Event(kind=Kind.STARTED, cell=CELL)


def test_the_tally_follows_a_sweep_by_hand():
    tally = Tally(total=6, workers=2)
    tally.count(ended(State.ALREADY))
    assert (tally.line(), tally.left_s) == ("1 done, 0 running, 0 failed", None)
    tally.count(STARTED)
    tally.count(replace(STARTED, cell=OTHER))
    assert tally.line() == "1 done, 2 running, 0 failed"
    for kind in (Kind.RETRIED, Kind.STARTED):
        tally.count(replace(STARTED, kind=kind))
    assert tally.line() == "1 done, 2 running, 0 failed"
    tally.count(ended(State.FINISHED, 10.0))
    tally.count(replace(ended(State.FAILED, 1.0, "why"), cell=OTHER))
    # Three of six are left; a finished cell took 10 s, and two are trained at once.
    assert tally.left_s == 15.0
    assert tally.line() == "2 done, 0 running, 1 failed, about 15 s left"
    tally.count(STARTED)
    tally.count(Event(kind=Kind.WAITS, cell=CELL))
    tally.count(STARTED)
    tally.count(ended(State.ALREADY))  # the other sweep has trained it
    assert tally.line().startswith("3 done, 0 running, 1 failed")


def test_a_last_cell_is_not_shared_by_the_workers():
    tally = Tally(total=2, workers=2)
    tally.count(STARTED)
    tally.count(ended(State.FINISHED, 10.0))
    assert tally.left_s == 10.0


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (STARTED, f"started {CELL.name}"),
        (Event(kind=Kind.RETRIED, cell=CELL, reason="dead"), f"retried {CELL.name}: dead"),
        (Event(kind=Kind.WAITS, cell=CELL), f"waits for another sweep {CELL.name}"),
        (ended(State.FINISHED, 100.0), f"finished {CELL.name} after 1 min 40 s"),
        (ended(State.FAILED, 20.0, "[bad]"), f"failed {CELL.name} after 20 s: [bad]"),
        (ended(State.ALREADY), f"already finished {CELL.name}"),
    ],
)
def test_every_event_in_words(event: Event, said: str):
    assert describe(event) == said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_shows_counts_and_what_went_wrong(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with progress([TrainConfig(), TrainConfig(seed=1)], Path("runs"), 2, quiet=False) as watch:
        for event in (STARTED, ended(State.FINISHED, 10.0), ended(State.FAILED, 1.0, "[bad]")):
            watch(event)
    shown = terminal.getvalue()
    assert "2/2" in shown
    assert "1 done, 0 running, 1 failed" in shown
    assert f"failed {CELL.name}" in shown
    assert "[bad]" in shown
    assert f"finished {CELL.name}" not in shown


def test_in_a_pipe_every_event_is_a_line(capsys):
    with progress([TrainConfig()], Path("runs"), 3, quiet=False) as watch:
        watch(STARTED)
        watch(ended(State.FINISHED, 10.0))
    assert capsys.readouterr().err.splitlines() == [
        "1 cells in runs, 3 workers",
        f"started {CELL.name}",
        f"[1/1] finished {CELL.name} after 10 s (1 done, 0 running, 0 failed)",
    ]


def test_quiet_counts_and_shows_nothing(capsys):
    with progress([TrainConfig()], Path("runs"), 3, quiet=True) as watch:
        watch(STARTED)
    assert capsys.readouterr().err == ""
