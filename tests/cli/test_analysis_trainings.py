import json
from pathlib import Path

import pytest
from sweep_cells import begin

from qprobe.cli.analysis_trainings import holds_trainings, trainings_of
from qprobe.cli.main import main
from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep import Cell
from qprobe.errors import InputError
from qprobe.records import Metric


def write(folder: Path, recipe: str, seed: int, value: float | None) -> None:
    cell = Cell.of(TrainConfig(recipe=recipe, seed=seed), folder)
    cell.plan()
    if value is None:
        return
    writer, _ = begin(TrainConfig(recipe=recipe, seed=seed), cell.folder)
    with writer:
        writer.metrics([Metric(step=1, epoch=1, split="test", name="auprc", value=value)])


@pytest.fixture
def folder(tmp_path):
    for seed in range(6):
        write(tmp_path, "bf16", seed, 0.8 + 0.01 * seed)
        write(tmp_path, "nvfp4", seed, 0.76 + 0.011 * seed)
    write(tmp_path, "nvfp4", 6, None)
    return tmp_path


def test_finished_trainings_and_what_is_missing(folder):
    found, notes = trainings_of(folder)
    assert [(one.recipe, one.seed) for one in found if one.seed == 3] == [("bf16", 3), ("nvfp4", 3)]
    assert found[0].group == "cnn 500k phantom 64"
    assert notes == ("1 of 13 trainings have no auprc yet; qprobe compare says why",)


def test_a_folder_is_one_of_trainings_unless_it_holds_weights(folder, tmp_path):
    assert holds_trainings(folder)
    (folder / "best.pt").write_bytes(b"PK")
    assert not holds_trainings(folder)
    (tmp_path / "empty").mkdir()
    assert not holds_trainings(tmp_path / "empty")
    assert not holds_trainings(tmp_path / "none")


def test_one_recipe_alone_is_no_comparison(tmp_path):
    write(tmp_path, "bf16", 0, 0.8)
    with pytest.raises(InputError, match="trainings under bf16; a comparison takes bf16 and"):
        trainings_of(tmp_path)


def test_the_command_compares_the_recipes_of_a_folder(folder, capsys):
    assert main(["analyze", str(folder), "--json", "--fail-on", "warn"]) == 1
    whole = json.loads(capsys.readouterr().out)
    assert "worse" in whole["verdict"]
    (found,) = whole["findings"]
    assert (found["analyzer"], found["n"]) == ("recipes", 6)
    assert found["effect"] == pytest.approx(-0.0375)
    assert (folder / "recipes.qprobe").is_file()
    assert main(["analyze", str(folder), "--recipe", "nvfp4"]) == 2
    assert "name the best.pt of one" in capsys.readouterr().err
