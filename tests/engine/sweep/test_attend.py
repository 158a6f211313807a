from pathlib import Path

import pytest
import sweep_cells
from sweep_cells import Trainer, lines

from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep.attend import Ending, attempt, attend, take
from qprobe.engine.sweep.cell import Cell
from qprobe.records.lock import is_written


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    made = Cell.of(TrainConfig(recipe="nvfp4"), tmp_path)
    made.plan()
    return made


def test_a_cell_is_locked_while_it_is_trained_and_free_afterwards(cell: Cell):
    seen = []

    def run(config: TrainConfig, folder: Path) -> Path:
        seen.append(is_written(folder))
        return Trainer()(config, folder)

    assert attend(cell, run).ending is Ending.FINISHED
    assert seen == [True]
    assert not is_written(cell.folder)


def test_a_cell_that_is_held_is_left_alone(cell: Cell):
    lock = take(cell)
    assert lock is not None
    assert attend(cell, Trainer()).ending is Ending.BUSY
    lock.release()
    assert not lines(cell.folder, "started.log")


def test_a_finished_cell_is_not_run_again_even_when_it_was_given_out(cell: Cell):
    attend(cell, Trainer())
    assert attend(cell, sweep_cells.dies_always).ending is Ending.ALREADY


def _raises(error: BaseException):
    def run(config: TrainConfig, folder: Path) -> Path:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "ending", "reason"),
    [
        (ValueError("bad"), Ending.FAILED, "ValueError: bad"),
        (SystemExit(3), Ending.FAILED, "SystemExit: 3"),
        (KeyboardInterrupt(), Ending.INTERRUPTED, None),
    ],
)
def test_how_an_attempt_ends_when_training_raises(cell: Cell, error, ending, reason):
    ended = attend(cell, _raises(error))
    assert (ended.hash, ended.ending, ended.reason) == (cell.hash, ending, reason)
    assert not is_written(cell.folder)


@pytest.mark.parametrize(
    ("status", "ending", "reason"),
    [
        ("finished", Ending.FINISHED, None),
        ("interrupted", Ending.INTERRUPTED, "why"),
        ("failed", Ending.FAILED, "why"),
    ],
)
def test_the_run_file_says_how_it_ended(cell: Cell, status: str, ending: Ending, reason):
    def run(config: TrainConfig, folder: Path) -> Path:
        writer, _ = sweep_cells.begin(config, folder)
        writer.close(status, "why")
        return folder / "run.qprobe"

    ended = attempt(cell, run)
    assert (ended.ending, ended.reason) == (ending, reason)


def test_a_run_that_is_left_open_has_failed(cell: Cell):
    kept = []

    def run(config: TrainConfig, folder: Path) -> Path:
        kept.append(sweep_cells.begin(config, folder)[0])
        return folder / "run.qprobe"

    ended = attempt(cell, run)
    assert (ended.ending, ended.reason) == (
        Ending.FAILED,
        "training returned while its run was still running",
    )
    kept[0].close()


def test_a_failure_of_before_is_forgotten_by_a_new_attempt(cell: Cell):
    attend(cell, _raises(ValueError("bad")))
    assert attend(cell, Trainer()).ending is Ending.FINISHED
    assert not (cell.folder / "error.txt").exists()
