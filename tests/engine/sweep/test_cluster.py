"""Ray: what a node does is tested without it; a cluster with a killed worker in the slow test."""

import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import sweep_cells
from sweep_cells import Trainer, lines

from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep import Cell, Ending, Kind, RayCluster, State, grid, index, sweep
from qprobe.engine.sweep.cluster import bring_back, files_of, train_on_node
from qprobe.errors import InputError, MissingExtraError


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    made = Cell.of(TrainConfig(recipe="nvfp4"), tmp_path)
    made.plan()
    return made


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'qprobe\[scale\]'"):
        sweep([TrainConfig()], Trainer(), tmp_path, backend=RayCluster())


def test_no_workers_are_refused():
    with pytest.raises(InputError, match="at least 1 worker, got 0"):
        RayCluster(workers=0)


def test_a_node_that_sees_the_folder_trains_in_it(cell: Cell):
    (cell.folder / ".driver-abc").touch()
    ended, files = train_on_node(cell, "abc", pickle.dumps(Trainer()), {})
    assert (ended.ending, files) == (Ending.FINISHED, {})
    assert cell.is_finished()


def test_a_node_that_does_not_see_it_sends_everything_back(cell: Cell):
    ended, files = train_on_node(cell, "abc", pickle.dumps(Trainer()), {})
    assert ended.ending is Ending.FINISHED
    assert not cell.is_finished()
    bring_back(cell.folder, files)
    assert cell.is_finished()


def test_such_a_node_goes_on_from_what_there_is(cell: Cell):
    writer, _ = sweep_cells.begin(cell.config, cell.folder)
    writer.record(0, sweep_cells.STEP, 1.0)
    writer.close("interrupted")
    sent = files_of(cell.folder)
    assert set(sent) == {"run.qprobe"}
    _, files = train_on_node(cell, "abc", pickle.dumps(Trainer(steps=3)), sent)
    bring_back(cell.folder, files)
    assert len(lines(cell.folder, "steps.log")) == 2


def test_what_a_node_no_longer_has_is_removed_and_the_run_comes_last(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
):
    for name in ("run.qprobe", "run.qprobe-wal", "last.pt"):
        (cell.folder / name).write_bytes(b"old")
    order = []
    before = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda draft, path: (order.append(path.name), before(draft, path))[1]
    )
    bring_back(cell.folder, {"run.qprobe": b"new", "last.pt": b"new", "z.pt": b"new"})
    assert order == ["last.pt", "z.pt", "run.qprobe"]
    assert {path.name for path in cell.folder.iterdir()} == {
        "cell.json", "last.pt", "run.qprobe", "z.pt",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_local_cluster_of_two_workers_one_of_which_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(sweep_cells.__file__).parent))
    pytest.importorskip("ray", reason="needs the extra scale")
    cells = grid(TrainConfig(), {"recipe": ["bf16", "nvfp4"], "seed": [0, 1]})
    events = []
    killed = cells[2].hash
    result = sweep(
        cells,
        sweep_cells.OnlyOneDies(killed),
        tmp_path,
        backend=RayCluster(address="local", workers=2),
        watch=events.append,
    )
    assert [outcome.state for outcome in result.outcomes] == [State.FINISHED] * 4
    assert [event.cell.hash for event in events if event.kind is Kind.RETRIED] == [killed]
    for config in cells:
        folder = Cell.of(config, tmp_path).folder
        assert len(lines(folder, "finished.log")) == 1
        assert not list(folder.glob(".driver-*"))
    assert {str(entry.standing) for entry in index(tmp_path)} == {"finished"}
    # Of the killed cell, step 0 was kept.
    assert len(lines(Cell.of(cells[2], tmp_path).folder, "steps.log")) == 1
    again = sweep(cells, Trainer(), tmp_path, backend=RayCluster(address="local", workers=2))
    assert [outcome.state for outcome in again.outcomes] == [State.ALREADY] * 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_ctrl_c_on_a_local_cluster_lets_the_cell_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(sweep_cells.__file__).parent))
    pytest.importorskip("ray", reason="needs the extra scale")
    folder = Cell.of(TrainConfig(), tmp_path).folder

    def press() -> None:
        while not lines(folder, "steps.log"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    trainer = Trainer(steps=1000, pause_s=0.05)
    result = sweep([TrainConfig()], trainer, tmp_path, backend=RayCluster(workers=1))
    assert result.interrupted
    assert [outcome.state for outcome in result.outcomes] == [State.INTERRUPTED]
    (entry,) = index(tmp_path)
    assert (str(entry.standing), entry.reason) == ("interrupted", "interrupted from the keyboard")
