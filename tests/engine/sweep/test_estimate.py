from pathlib import Path

import pytest
from sweep_cells import Trainer, lines

from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep import Cell, estimate, grid
from qprobe.errors import InputError

CELLS = grid(TrainConfig(), {"recipe": ["bf16", "nvfp4"], "seed": [0, 1, 2], "epochs": [10, 20]})


def steps(config: TrainConfig) -> int:
    return 7 * config.epochs


def test_one_step_of_each_combination_is_timed_and_the_sum_is_by_hand(tmp_path: Path):
    timed = []

    def time_step(config: TrainConfig) -> float:
        timed.append(config.recipe)
        return {"bf16": 0.5, "nvfp4": 1.0}[config.recipe]

    found = estimate(CELLS, tmp_path, time_step=time_step, count_steps=steps, workers=2)
    assert timed == ["bf16", "nvfp4"]
    assert (found.cells, found.finished) == (12, 0)
    # Each recipe: three seeds of 70 and of 140 steps.
    assert [(one.cells, one.steps) for one in found.combinations] == [(6, 630), (6, 630)]
    assert found.wall_s == (630 * 0.5 + 630 * 1.0) / 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "axis", [{"arch": ["cnn", "vit"]}, {"size": ["tiny", "500k"]}, {"image": [32, 64]},
             {"batch": [8, 16]}, {"layers": ["mid", "all"]}]
)  # fmt: skip
def test_whatever_changes_a_step_is_timed_apart(tmp_path: Path, axis):
    found = estimate(
        grid(TrainConfig(), axis), tmp_path, time_step=lambda config: 1.0, count_steps=steps
    )
    assert len(found.combinations) == 2


def test_finished_cells_are_counted_and_cost_nothing(tmp_path: Path):
    for config in CELLS[:4]:
        cell = Cell.of(config, tmp_path)
        cell.plan()
        Trainer()(config, cell.folder)
    found = estimate(CELLS, tmp_path, time_step=lambda config: 1.0, count_steps=steps)
    assert (found.cells, found.finished) == (12, 4)
    assert sum(one.cells for one in found.combinations) == 8
    assert len(lines(Cell.of(CELLS[0], tmp_path).folder, "started.log")) == 1


def test_no_workers_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="at least 1 worker, got 0"):
        estimate(CELLS, tmp_path, time_step=steps, count_steps=steps, workers=0)
