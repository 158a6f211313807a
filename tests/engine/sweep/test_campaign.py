"""The sweep as its user sees it, with trainings that take no time in real worker processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sweep_cells
from sweep_cells import Trainer, lines

from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep import (
    Cell,
    Event,
    Kind,
    Processes,
    State,
    SweepResult,
    grid,
    index,
    processes,
    sweep,
)
from qprobe.engine.sweep.attend import take
from qprobe.errors import InputError
from qprobe.records.lock import is_written

CELLS = grid(TrainConfig(), {"recipe": ["bf16", "nvfp4"], "seed": [0, 1]})
ONE = CELLS[:1]


def folders(cells: list[TrainConfig], root: Path) -> list[Path]:
    return [Cell.of(cell, root).folder for cell in cells]


def states(result: SweepResult) -> list[State]:
    return [outcome.state for outcome in result.outcomes]


def test_every_cell_is_trained_once_and_never_again(tmp_path: Path):
    events: list[Event] = []
    result = sweep(CELLS, Trainer(), tmp_path, watch=events.append)
    assert states(result) == [State.FINISHED] * 4
    assert [event.kind for event in events].count(Kind.STARTED) == 4
    assert all(outcome.seconds for outcome in result.outcomes)
    again = sweep(CELLS, Trainer(), tmp_path)
    assert states(again) == [State.ALREADY] * 4
    assert [len(lines(one, "started.log")) for one in folders(CELLS, tmp_path)] == [1] * 4
    assert [str(entry.standing) for entry in index(tmp_path)] == ["finished"] * 4


def test_two_workers_share_the_cells_and_none_takes_more_than_one_at_a_time(tmp_path: Path):
    under_way: list[int] = []
    count = 0

    def watch(event: Event) -> None:
        nonlocal count
        count += {Kind.STARTED: 1, Kind.ENDED: -1}[event.kind]
        under_way.append(count)

    sweep(CELLS, Trainer(pause_s=0.05), tmp_path, watch=watch)
    assert max(under_way) == 2
    pids = {lines(one, "finished.log")[0] for one in folders(CELLS, tmp_path)}
    assert len(pids) <= 2
    assert os.getpid() not in pids


def test_a_cell_that_raises_is_recorded_and_the_others_go_on(tmp_path: Path):
    result = sweep(CELLS, sweep_cells.failing, tmp_path)
    assert states(result) == [State.FINISHED, State.FAILED] * 2
    failed = result.of(State.FAILED)[0]
    assert failed.reason == "ArithmeticError: no luck with nvfp4 and a second line"
    error = (failed.cell.folder / "error.txt").read_text()
    assert error.splitlines()[0] == failed.reason
    assert "sweep_cells.py" in error
    standing = {entry.path: entry for entry in index(tmp_path)}[failed.cell.folder]
    assert (str(standing.standing), standing.reason) == ("failed", failed.reason)
    # Mended, it is run; the others are not.
    mended = sweep(CELLS, Trainer(), tmp_path)
    assert states(mended) == [State.ALREADY, State.FINISHED] * 2
    assert not (failed.cell.folder / "error.txt").exists()


def test_a_run_that_ends_as_failed_is_a_failure_with_its_reason(tmp_path: Path):
    (outcome,) = sweep(ONE, sweep_cells.diverging, tmp_path).outcomes
    assert (outcome.state, outcome.reason) == (State.FAILED, "the loss is nan at step 3")


@pytest.mark.parametrize(
    ("run_cell", "message"),
    [
        (sweep_cells.leaves_nothing, "left no run file in its folder"),
        (sweep_cells.trains_another, "is of the configuration .*, and the cell's is"),
    ],
)
def test_what_is_not_this_cells_run_does_not_count(tmp_path: Path, run_cell, message: str):
    (outcome,) = sweep(ONE, run_cell, tmp_path).outcomes
    assert outcome.state is State.FAILED
    with pytest.raises(InputError, match=message):
        raise InputError(outcome.reason)


def test_a_foreign_run_in_a_cells_folder_is_named_and_left_alone(tmp_path: Path):
    first, second = folders(CELLS[:2], tmp_path)
    sweep(ONE, Trainer(), tmp_path)
    second.mkdir()
    (first / "run.qprobe").rename(second / "run.qprobe")
    result = sweep(CELLS[1:2], Trainer(), tmp_path)
    (outcome,) = result.outcomes
    assert outcome.state is State.FAILED
    assert "move it away" in str(outcome.reason)
    assert not lines(second, "started.log")


def test_a_worker_that_dies_is_replaced_and_its_cell_goes_on(tmp_path: Path):
    events: list[Event] = []
    result = sweep(ONE, sweep_cells.dies_once, tmp_path, watch=events.append)
    assert states(result) == [State.FINISHED]
    retried = [event for event in events if event.kind is Kind.RETRIED]
    assert [event.reason for event in retried] == [
        "its worker was killed by SIGKILL (out of memory, perhaps)"
    ]
    (folder,) = folders(ONE, tmp_path)
    assert len(lines(folder, "steps.log")) == 1  # step 0 was there, step 1 was to be done


def test_a_cell_whose_workers_die_twice_has_failed_and_the_others_go_on(tmp_path: Path):
    result = sweep(ONE, sweep_cells.dies_always, tmp_path)
    (outcome,) = result.outcomes
    assert outcome.state is State.FAILED
    assert "killed by SIGKILL" in str(outcome.reason)
    assert "2 times" in str(outcome.reason)
    assert len(lines(outcome.cell.folder, "started.log")) == 2


def test_a_worker_that_dies_after_its_run_was_finished_costs_nothing(tmp_path: Path):
    result = sweep(ONE, sweep_cells.dies_after_finishing, tmp_path)
    assert states(result) == [State.FINISHED]
    assert len(lines(folders(ONE, tmp_path)[0], "started.log")) == 1


def test_a_worker_computes_with_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    result = sweep(ONE, sweep_cells.counts_threads, tmp_path)
    assert states(result) == [State.FINISHED]
    assert (folders(ONE, tmp_path)[0] / "threads.txt").read_text() == "1"


def test_what_cannot_be_sent_to_a_worker_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"cannot be sent to a worker.*function of a module"):
        sweep(ONE, lambda config, folder: folder, tmp_path)


def test_what_a_worker_cannot_load_ends_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    payload = b"cno_such_module\nrun\n."  # a pickle of no_such_module.run
    monkeypatch.setattr(processes, "pickled", lambda run_cell: payload)
    with pytest.raises(InputError, match="cannot load what it is to run: ModuleNotFoundError"):
        sweep(ONE, Trainer(), tmp_path)


def test_no_cells_and_no_workers_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="at least 1 cell"):
        sweep([], Trainer(), tmp_path)
    with pytest.raises(InputError, match="at least 1 worker, got 0"):
        Processes(workers=0)


def test_ctrl_c_lets_cells_save_and_the_next_sweep_goes_on(tmp_path: Path):
    trainer = Trainer(steps=40, pause_s=0.05)

    def press(event: Event) -> None:
        if event.kind is Kind.STARTED and not pressed:
            pressed.append(event.cell)
            threading.Thread(target=_interrupt_after_a_step, args=(event.cell.folder,)).start()

    pressed: list[Cell] = []
    before = signal.getsignal(signal.SIGINT)
    result = sweep(CELLS, trainer, tmp_path, backend=Processes(workers=1), watch=press)
    assert signal.getsignal(signal.SIGINT) is before
    assert result.interrupted
    assert states(result) == [State.INTERRUPTED] + [State.NOT_STARTED] * 3
    (first, *_) = folders(CELLS, tmp_path)
    done = len(lines(first, "steps.log"))
    assert 1 <= done < 40
    standings = [str(entry.standing) for entry in index(tmp_path)]
    assert sorted(standings) == ["interrupted", "planned", "planned", "planned"]
    (again,) = sweep(ONE, Trainer(steps=done + 1), tmp_path).outcomes
    assert again.state is State.FINISHED
    assert len(lines(first, "steps.log")) == done + 1  # no step was done twice


def _interrupt_after_a_step(folder: Path) -> None:
    while not lines(folder, "steps.log"):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


SWEEP = """
import sys
from pathlib import Path
from sweep_cells import Trainer
from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep import grid, sweep
cells = grid(TrainConfig(), {"recipe": ["bf16", "nvfp4"], "seed": [0, 1]})
if __name__ == "__main__":
    result = sweep(cells, Trainer(steps=int(sys.argv[2]), pause_s=0.05), Path(sys.argv[1]))
    print(*(outcome.state.name for outcome in result.outcomes))
"""


def start_sweep(tmp_path: Path, steps: int = 5) -> "subprocess.Popen[str]":
    script = tmp_path / "script.py"
    script.write_text(SWEEP)
    environment = os.environ | {"PYTHONPATH": str(Path(sweep_cells.__file__).parent)}
    command = [sys.executable, str(script), str(tmp_path / "runs"), str(steps)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_two_sweeps_on_one_folder_share_it_and_both_end_with_everything_done(tmp_path: Path):
    both = [start_sweep(tmp_path) for _ in range(2)]
    said = [one.communicate(timeout=60)[0].split() for one in both]
    assert [one.returncode for one in both] == [0, 0]
    for first, second in zip(*said, strict=True):
        assert sorted((first, second)) == ["ALREADY", "FINISHED"]
    for folder in folders(CELLS, tmp_path / "runs"):
        assert len(lines(folder, "started.log")) == 1
        assert len(lines(folder, "steps.log")) == 5


def test_a_cell_that_is_held_elsewhere_is_waited_for_and_trained_if_it_has_to_be(tmp_path: Path):
    cell = Cell.of(ONE[0], tmp_path)
    lock = take(cell)
    assert lock is not None
    events: list[Event] = []

    def watch(event: Event) -> None:
        events.append(event)
        if event.kind is Kind.WAITS:
            threading.Timer(0.3, lock.release).start()

    (outcome,) = sweep(ONE, Trainer(), tmp_path, watch=watch).outcomes
    assert outcome.state is State.FINISHED
    assert [event.kind for event in events] == [
        Kind.STARTED, Kind.WAITS, Kind.STARTED, Kind.ENDED,
    ]  # fmt: skip


def test_workers_of_a_killed_sweep_save_end_and_free_their_cells(tmp_path: Path):
    killed = start_sweep(tmp_path, steps=400)  # 20 s a cell
    started = folders(CELLS, tmp_path / "runs")[:2]
    while not all(lines(folder, "steps.log") for folder in started):
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    deadline = time.monotonic() + 10
    while any(is_written(folder) for folder in started):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    found = [entry for entry in index(tmp_path / "runs") if entry.path.parent in started]
    assert [(str(entry.standing), entry.reason) for entry in found] == [
        ("interrupted", "interrupted from the keyboard")
    ] * 2
    said = start_sweep(tmp_path).communicate(timeout=60)[0].split()
    assert said == ["FINISHED"] * 4
