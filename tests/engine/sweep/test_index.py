import json
import math
from importlib import import_module
from pathlib import Path

import pytest
from sweep_cells import Trainer, begin, score

from qprobe import records
from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep import Cell, Entry, Standing, index
from qprobe.errors import InputError
from qprobe.records import Metric, RunInfo, create

CONFIG = TrainConfig(recipe="nvfp4")


def trained(config: TrainConfig, root: Path) -> Cell:
    cell = Cell.of(config, root)
    cell.plan()
    Trainer()(config, cell.folder)
    return cell


def only(entries: list[Entry]) -> Entry:
    (entry,) = entries
    return entry


def test_a_finished_run_with_its_scores_and_configuration(tmp_path: Path):
    cell = trained(CONFIG, tmp_path)
    entry = only(index(tmp_path))
    assert entry.path == cell.folder / "run.qprobe"
    assert (entry.standing, entry.reason, entry.hash) == (Standing.FINISHED, None, CONFIG.hash)
    assert TrainConfig.of(entry.config) == CONFIG.resolved()
    assert entry.scores["test"] == {"auprc": score(CONFIG)}


def test_validation_scores_are_of_the_epoch_that_chose_the_weights(tmp_path: Path):
    writer, _ = begin(CONFIG, tmp_path)
    with writer:
        for epoch, auprc in enumerate([0.5, math.nan, 0.8, 0.8, 0.7]):
            scores = {"auprc": auprc, "loss": 1.0 - epoch / 10}
            writer.metrics(
                Metric(step=epoch, epoch=epoch, split="validation", name=name, value=value)
                for name, value in scores.items()
            )
    assert only(index(tmp_path)).scores["validation"] == {"auprc": 0.8, "loss": 0.8}


def test_without_auprc_validation_scores_are_the_last(tmp_path: Path):
    writer, _ = begin(CONFIG, tmp_path)
    with writer:
        writer.metrics(
            Metric(step=step, split="validation", name="dice", value=step / 10) for step in range(3)
        )
    assert only(index(tmp_path)).scores["validation"] == {"dice": 0.2}


def test_the_standing_of_everything_a_sweep_may_leave(tmp_path: Path):
    cells = [Cell.of(TrainConfig(seed=seed), tmp_path) for seed in range(5)]
    for cell in cells:
        cell.plan()
    Trainer()(cells[0].config, cells[0].folder)
    begin(cells[1].config, cells[1].folder)[0].close("failed", "nan")
    begin(cells[2].config, cells[2].folder)[0].close("interrupted", "asked to")
    cells[3].note_failure(ValueError("too early"))
    found = {entry.hash: (entry.standing, entry.reason) for entry in index(tmp_path)}
    assert [found[cell.hash] for cell in cells] == [
        (Standing.FINISHED, None),
        (Standing.FAILED, "nan"),
        (Standing.INTERRUPTED, "asked to"),
        (Standing.FAILED, "ValueError: too early"),
        (Standing.PLANNED, None),
    ]


def test_runs_that_are_no_trainings_do_not_count_and_broken_files_are_named(tmp_path: Path):
    create(tmp_path / "analysis.qprobe", RunInfo(config={}, environment={})).close()
    (tmp_path / "broken.qprobe").write_bytes(b"no run at all")
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "cell.json").write_text("{")
    broken, plan = index(tmp_path)
    assert (broken.path.name, broken.standing) == ("broken.qprobe", Standing.UNREADABLE)
    assert "broken.qprobe" in str(broken.reason)
    assert plan.standing is Standing.UNREADABLE
    assert "cell.json cannot be read" in str(plan.reason)


def test_a_finished_run_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for seed in range(3):
        trained(TrainConfig(seed=seed), tmp_path)
    first = index(tmp_path)
    opened = _count_openings(monkeypatch)
    assert index(tmp_path) == first
    assert opened == []
    # One is taken up again: that one is opened, and what it says is what the index says.
    run = first[1].path
    with records.resume(run) as writer:
        writer.metrics([Metric(step=9, split="test", name="auprc", value=0.25)])
    assert index(tmp_path)[1].scores["test"] == {"auprc": 0.25}
    assert opened == [run]


def test_a_run_that_is_being_written_is_not_remembered(tmp_path: Path):
    cell = trained(CONFIG, tmp_path)
    index(tmp_path)
    with records.resume(cell.folder / "run.qprobe"):
        assert only(index(tmp_path)).standing is Standing.RUNNING
    assert only(index(tmp_path)).standing is Standing.FINISHED


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 99}', '{"version": 1, "trainings": [{"path": 3}]}']
)
def test_an_index_that_is_not_ours_is_computed_anew(tmp_path: Path, text: str):
    trained(CONFIG, tmp_path)
    whole = index(tmp_path)
    (tmp_path / "index.json").write_text(text)
    assert index(tmp_path) == whole
    assert json.loads((tmp_path / "index.json").read_text())["version"] == 1


def test_nan_and_infinity_survive_the_index(tmp_path: Path):
    writer, _ = begin(CONFIG, tmp_path)
    with writer:
        values = {"auprc": math.nan, "loss": math.inf, "dice": 0.1}
        writer.metrics(
            Metric(step=0, split="test", name=name, value=value) for name, value in values.items()
        )
    index(tmp_path)
    remembered = only(index(tmp_path)).scores["test"]
    assert math.isnan(remembered["auprc"])
    assert (remembered["loss"], remembered["dice"]) == (math.inf, 0.1)
    assert "NaN" not in (tmp_path / "index.json").read_text()


def test_a_folder_that_cannot_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied")

    trained(CONFIG, tmp_path)
    module = import_module("qprobe.engine.sweep.index")  # the name is that of the function, too
    monkeypatch.setattr(module, "write_atomically", refused)
    assert only(index(tmp_path)).standing is Standing.FINISHED
    assert not (tmp_path / "index.json").exists()


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"there is no folder .*nowhere"):
        index(tmp_path / "nowhere")
    (tmp_path / "run.qprobe").touch()
    with pytest.raises(InputError, match=r"run.qprobe is a file; name the folder that holds"):
        index(tmp_path / "run.qprobe")


def _count_openings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    opened: list[Path] = []
    before = records.open

    def counting(path: Path):
        opened.append(path)
        return before(path)

    monkeypatch.setattr("qprobe.records.open", counting)
    return opened
