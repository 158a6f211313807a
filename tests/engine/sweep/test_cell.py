import json
from pathlib import Path

import pytest
from sweep_cells import Trainer

from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep.cell import Cell, write_atomically
from qprobe.errors import InputError
from qprobe.records import Status


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    made = Cell.of(TrainConfig(recipe="nvfp4", seed=3, fold=1), tmp_path)
    made.plan()
    return made


def test_the_folder_is_readable_and_belongs_to_one_configuration(tmp_path: Path):
    config = TrainConfig(arch="my.models:net/2", data="lgg", fold=0)
    cell = Cell.of(config, tmp_path)
    assert cell.name == f"my.models_net_2-500k-lgg-bf16-seed0-fold0-{config.hash[:12]}"
    other = Cell.of(TrainConfig(arch="my.models:net/2", data="lgg", fold=0, epochs=3), tmp_path)
    assert other.name.rpartition("-")[0] == cell.name.rpartition("-")[0]
    assert other.folder != cell.folder


def test_a_very_long_name_is_cut_and_still_unique(tmp_path: Path):
    cells = [Cell.of(TrainConfig(arch="m:" + "n" * 400, seed=seed), tmp_path) for seed in (0, 1)]
    assert all(len(cell.name) < 200 for cell in cells)
    assert cells[0].folder != cells[1].folder


def test_the_plan_says_what_belongs_into_the_folder(cell: Cell):
    plan = json.loads((cell.folder / "cell.json").read_text())
    assert plan["hash"] == cell.hash
    assert TrainConfig.of(plan["config"]).hash == cell.hash
    before = (cell.folder / "cell.json").stat().st_mtime_ns
    cell.plan()
    assert (cell.folder / "cell.json").stat().st_mtime_ns == before


def test_a_cell_that_never_ran_is_not_finished(cell: Cell):
    assert cell.look() == (None, None)
    assert not cell.is_finished()


def test_a_finished_run_of_the_same_configuration_is_finished(cell: Cell):
    Trainer()(cell.config, cell.folder)
    assert cell.look().status is Status.FINISHED


def test_a_run_of_another_configuration_is_refused(cell: Cell):
    Trainer()(TrainConfig(), cell.folder)
    with pytest.raises(InputError, match=r"run.qprobe is of the configuration [0-9a-f]{64}, and"):
        cell.look()


def test_an_error_before_there_was_a_run_is_kept_with_its_traceback(cell: Cell):
    with pytest.raises(ZeroDivisionError) as caught:
        _divide_by_zero()
    assert cell.note_failure(caught.value) == "ZeroDivisionError: by zero"
    assert cell.look() == (Status.FAILED, "ZeroDivisionError: by zero")
    assert "in _divide_by_zero" in (cell.folder / "error.txt").read_text()
    cell.forget_failure()
    cell.forget_failure()
    assert cell.look() == (None, None)


def test_a_text_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    write_atomically(path, "old")
    monkeypatch.setattr(Path, "replace", _killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def _killed(self: Path, target: Path) -> None:
    raise KeyboardInterrupt


def _divide_by_zero() -> None:
    raise ZeroDivisionError("by\nzero")
