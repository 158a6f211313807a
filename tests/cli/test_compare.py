import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sweep_cells import Trainer, begin

from qprobe.cli.comparison_table import table
from qprobe.cli.main import main
from qprobe.engine.compare import compare
from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep import Cell, grid, index
from qprobe.records import Metric

SHIFT = {"bf16": 0.0, "nvfp4": -0.02, "nvfp4-sr": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven seeds of three recipes, one worse and one as good, and a cell that never ran."""
    tmp_path = tmp_path_factory.mktemp("runs")
    axes = {"recipe": list(SHIFT), "seed": range(7)}
    for config in grid(TrainConfig(), axes):
        cell = Cell.of(config, tmp_path)
        cell.plan()
        wiggle = 0.001 * (config.seed + 1) * (-1) ** (config.seed + (config.recipe == "nvfp4-sr"))
        value = 0.8 + 0.01 * config.seed + SHIFT[config.recipe] + wiggle
        writer, _ = begin(config, cell.folder)
        with writer:
            writer.metrics([Metric(step=1, epoch=1, split="test", name="auprc", value=value)])
    Cell.of(TrainConfig(recipe="nvfp4", seed=7), tmp_path).plan()
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main(["compare", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_in_a_pipe_a_recipe_is_a_line_and_the_answer_is_in_words(folder, capsys):
    code, said = call(capsys, folder)
    assert code == 0
    lines = said.splitlines()
    assert lines[0] == "cnn 500k phantom 64: auprc on test data, with 95% intervals"
    assert lines[2].split()[:2] == ["bf16", "7"]
    assert len({line.index("[") for line in lines[2:5]}) == 1  # aligned
    (worse,) = [line for line in lines if line.startswith("nvfp4: worse than bf16: -0.02")]
    assert worse.endswith("over 7 pairs, p = 0.0312.")  # 2·2/128
    assert any(line.startswith("nvfp4-sr: no difference found: ") for line in lines)
    assert "note: nvfp4, seed 7 is not compared: planned." in lines


def test_a_row_that_does_not_fit_a_terminal_is_a_block_and_nothing_is_cut(folder):
    found = compare(index(folder))
    (group,) = found.groups
    wide = list(table(group, found.question, None))
    assert list(table(group, found.question, max(map(len, wide)))) == wide
    narrow = list(table(group, found.question, 60))
    assert max(map(len, narrow)) <= 60
    assert [line for line in narrow if not line.startswith(" ")] == ["bf16", "nvfp4", "nvfp4-sr"]
    # Every cell of the wide table is a line of the narrow one.
    cells = {cell for line in wide[1:] for cell in re.split(r" {2,}", line)}
    assert cells == {re.split(r" {2,}", line)[-1] for line in narrow}


def test_too_few_pairs_is_said_with_the_least_p(tmp_path, capsys):
    for config in grid(TrainConfig(), {"recipe": ["bf16", "nvfp4"], "seed": [0, 1, 2]}):
        Trainer()(config, _made(tmp_path / config.hash[:8]))
    _, said = call(capsys, tmp_path)
    assert "nvfp4: too few pairs to say: " in said
    assert "with 3 pairs the smallest p after Holm's correction is 0.25, above 0.05." in said


def test_json_has_everything_and_is_strict(folder, capsys):
    code, said = call(capsys, folder, "--json")
    assert code == 0

    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads(said, parse_constant=refuse)
    (group,) = found["groups"]
    assert [row["recipe"] for row in group["rows"]] == ["bf16", "nvfp4", "nvfp4-sr"]
    assert group["rows"][1]["effect"]["verdict"] == "worse"
    assert group["rows"][1]["effect"]["difference"]["n"] == 7
    assert group["settings"]["arch"] == "cnn"
    assert len(group["notes"]) == 1


def test_many_notes_are_counted_and_not_dropped(folder, tmp_path, capsys):
    for seed in range(10, 40):
        Cell.of(TrainConfig(recipe="nvfp4", seed=seed), tmp_path).plan()
    _, said = call(capsys, folder, tmp_path)
    assert said.count("is not compared: planned") == 20
    assert "note: and 11 more like these; --json has all." in said


def test_folders_that_overlap_count_once(folder, capsys):
    _, once = call(capsys, folder)
    some = next(path for path in folder.iterdir() if path.is_dir())
    _, twice = call(capsys, folder, some)
    assert twice == once


def test_another_baseline_and_level(folder, capsys):
    _, said = call(capsys, folder, "--baseline", "nvfp4", "--level", "0.9")
    assert "with 90% intervals" in said
    assert "bf16: better than nvfp4: +0.02" in said


def test_what_is_not_there_is_bad_input(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "nowhere")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["compare", str(tmp_path)]) == 2
    assert "there is no training to compare" in capsys.readouterr().err


def test_comparing_takes_no_torch(folder):
    code = (
        "import sys; from qprobe.cli.main import main; "
        f"assert main(['compare', {str(folder)!r}]) == 0; "
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert seen.returncode == 0, seen.stderr


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
