"""Workers and sweeps killed with SIGKILL at random moments: nothing is lost, nothing done twice."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sweep_cells
from sweep_cells import lines

from qprobe import records
from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep import Cell, Standing, grid, index

STEPS = 8
CELLS = grid(TrainConfig(), {"recipe": ["bf16", "nvfp4"], "seed": [0, 1, 2]})
SWEEP = f"""
import sys
from pathlib import Path
from sweep_cells import Trainer
from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep import grid, sweep
cells = grid(TrainConfig(), {{"recipe": ["bf16", "nvfp4"], "seed": [0, 1, 2]}})
if __name__ == "__main__":
    result = sweep(cells, Trainer(steps={STEPS}, pause_s=0.04), Path(sys.argv[1]))
    print(*(outcome.state.name for outcome in result.outcomes))
"""


def start(tmp_path: Path) -> "subprocess.Popen[str]":
    script = tmp_path / "script.py"
    script.write_text(SWEEP)
    return subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "runs")],
        env=os.environ | {"PYTHONPATH": str(Path(sweep_cells.__file__).parent)},
        stdout=subprocess.PIPE,
        text=True,
    )


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def kill_at_random(tmp_path: Path, kills: int, seed: int) -> list[str]:
    """Run the sweep, killing something ``kills`` times; what the last, unharmed sweep said."""
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    sweep = start(tmp_path)
    for _ in range(kills):
        time.sleep(chance.uniform(0.05, 1.2))
        victims = [sweep.pid, *children(sweep.pid)]
        victim = chance.choice(victims)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        if victim == sweep.pid or sweep.poll() is not None:
            sweep.communicate()
            sweep = start(tmp_path)
    sweep.communicate(timeout=60)
    last = start(tmp_path)  # a cell may have lost two workers and be given up
    said = last.communicate(timeout=60)[0].split()
    assert last.returncode == 0
    return said


def check_everything(root: Path) -> None:
    entries = {entry.hash: entry for entry in index(root)}
    assert len(entries) == len(CELLS)
    for config in CELLS:
        cell, entry = Cell.of(config, root), entries[config.hash]
        assert entry.standing is Standing.FINISHED
        assert entry.scores["test"] == {"auprc": sweep_cells.score(config)}
        assert len(lines(cell.folder, "finished.log")) <= 1  # zero if killed right after closing
        with records.open(cell.folder / "run.qprobe") as run:
            assert run.series(*sweep_cells.STEP).steps.tolist() == list(range(STEPS))
            assert len(run.metrics(split="test")) == 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers through /proc")
@pytest.mark.parametrize("seed", [0, 1])
def test_after_kills_at_random_moments_every_cell_is_finished_once(tmp_path: Path, seed: int):
    said = kill_at_random(tmp_path, kills=3, seed=seed)
    assert set(said) <= {"FINISHED", "ALREADY"}
    check_everything(tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 112))
def test_after_many_kills_every_cell_is_finished_once(tmp_path: Path, seed: int):
    said = kill_at_random(tmp_path, kills=8, seed=seed)
    assert set(said) <= {"FINISHED", "ALREADY"}
    check_everything(tmp_path / "runs")
