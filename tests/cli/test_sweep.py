import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sweep_cells
from sweep_cells import Trainer

from qprobe.cli import sweep as command
from qprobe.cli.main import main
from qprobe.cli.probing import Probing
from qprobe.cli.sweep import cells_of, exit_code
from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep import Cell, Outcome, Standing, State, SweepResult, index
from qprobe.errors import InputError

TOML = """
epochs = 3
arch = "vit"
[data_options]
setting = "hard"
[sweep]
recipe = ["bf16", "nvfp4"]
seed = [0, 1]
"""


#: Ten patients with four slices of 32², of which eight are trained on: four batches an epoch.
REAL = (
    *("--set", "size=tiny", "--set", "image=32", "--set", "batch=8"),
    *("--set", "data_options={patients = 10, slices = 4, image = 32}"),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class without_probes:  # noqa: N801  (it stands for a function)
    """A cell that trains nothing has nothing to watch; a class, since workers take no closure."""

    def __init__(self, run_cell):
        self.run_cell = run_cell

    def __call__(self, config, folder, probing):
        assert probing == Probing()
        return self.run_cell(config, folder)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "train_cell", without_probes(Trainer()))


@pytest.mark.usefixtures("no_training")
def test_a_file_is_swept_and_the_second_time_nothing_is_left_to_do(tmp_path: Path, capsys):
    file, out = tmp_path / "sweep.toml", tmp_path / "runs"
    file.write_text(TOML)
    assert main(["sweep", "--config", str(file), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out == f"4 finished. 4 trainings in {out}; compare: qprobe compare {out}\n"
    shown = said.err.splitlines()
    assert shown[0] == f"4 cells in {out}, 2 workers"
    assert sum(line.startswith("started vit-500k-phantom-") for line in shown) == 4
    assert sum("/4] finished vit-500k-phantom-" in line for line in shown) == 4
    assert shown[-1].endswith("(4 done, 0 running, 0 failed)")
    for entry in index(out):
        config = TrainConfig.of(entry.config)
        assert (config.arch, config.epochs) == ("vit", 3)
        assert dict(config.data_options) == {"setting": "hard"}
    assert main(["sweep", "--config", str(file), "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert {cell["state"] for cell in json.loads(said.out)["cells"]} == {"already finished"}


def test_a_failed_cell_is_exit_code_1_and_is_named(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(command, "train_cell", without_probes(sweep_cells.failing))
    arguments = ["--recipe", "bf16", "--recipe", "nvfp4", "--out", str(tmp_path), "--workers", "1"]
    assert main(["sweep", *arguments]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[0].startswith("cnn-500k-phantom-nvfp4-seed0-")
    assert "failed: ArithmeticError: no luck with nvfp4 and a second line." in said.out
    assert "1 finished, 1 failed." in said.out
    assert {entry.standing for entry in index(tmp_path)} == {Standing.FINISHED, Standing.FAILED}


@pytest.mark.usefixtures("no_training")
def test_quiet_says_nothing(tmp_path: Path, capsys):
    assert main(["sweep", "--seed", "3", "--out", str(tmp_path), "--quiet"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
    (entry,) = index(tmp_path)
    assert entry.config["seed"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "nvpf4"], "no recipe called 'nvpf4'; did you mean 'nvfp4'"),
        (["--arch", "swim"], "no architecture called 'swim'; did you mean 'swin'"),
        (["--set", "epoch=3"], "a training has no setting 'epoch'"),
        (["--set", "seed=3", "--seed", "1"], "--set seed and --seed contradict each other"),
        (["--config", "none.toml"], "none.toml cannot be read"),
        (["--workers", "0"], "workers"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(tmp_path, capsys, arguments, message):
    assert main(["sweep", *arguments, "--out", str(tmp_path / "runs")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_without_ray_the_extra_is_named(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "--ray", "local", "--out", str(tmp_path)]) == 2
    assert "pip install 'qprobe[scale]'" in capsys.readouterr().err


def test_the_command_line_overrules_the_file():
    filed = {"arch": "vit", "epochs": 3, "sweep": {"recipe": ["bf16"], "lr": [0.1, 0.2]}}
    given = {"recipe": ["nvfp4", "nvfp4-sr"], "arch": ["cnn"]}
    cells = cells_of(filed, given, {"lr": 0.5, "epochs": 4}, source="x.toml")
    assert [(cell.recipe, cell.arch, cell.lr, cell.epochs) for cell in cells] == [
        ("nvfp4", "cnn", 0.5, 4),
        ("nvfp4-sr", "cnn", 0.5, 4),
    ]


def test_a_file_that_contradicts_itself_is_named():
    with pytest.raises(InputError, match=r"x.toml sets 'seed' both"):
        cells_of({"seed": 1, "sweep": {"seed": [1]}}, {}, {}, source="x.toml")


@pytest.mark.parametrize(
    ("states", "interrupted", "code"),
    [
        ([State.FINISHED, State.ALREADY], False, 0),
        ([State.FINISHED, State.FAILED], False, 1),
        ([State.FINISHED, State.INTERRUPTED], True, 130),
        ([State.FAILED, State.NOT_STARTED], True, 130),
        ([State.FINISHED, State.INTERRUPTED], False, 1),  # by somebody else
        ([State.FINISHED], True, 0),  # pressed when all was done
    ],
)
def test_exit_codes(states, interrupted, code):
    cell = Cell.of(TrainConfig(), Path("runs"))
    outcomes = tuple(Outcome(cell=cell, state=state) for state in states)
    assert exit_code(SweepResult(outcomes=outcomes, interrupted=interrupted)) == code


def test_a_dry_run_counts_and_times_and_writes_nothing(tmp_path: Path, capsys):
    options = [*REAL, "--set", "epochs=2"]
    axes = ["--recipe", "bf16", "--recipe", "nvfp4", "--seed", "0", "--seed", "1"]
    out = tmp_path / "runs"
    assert main(["sweep", *options, *axes, "--dry-run", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["cells"], found["finished"], found["workers"]) == (4, 0, 2)
    # 8 of 10 patients train: 32 slices, 4 batches, 2 epochs, 2 seeds.
    assert [(one["recipe"], one["cells"], one["steps"]) for one in found["combinations"]] == [
        ("bf16", 2, 16),
        ("nvfp4", 2, 16),
    ]
    by_hand = sum(one["steps"] * one["step_s"] for one in found["combinations"]) / 2
    assert found["wall_s"] == pytest.approx(by_hand)
    assert all(0 < one["step_s"] < 10 for one in found["combinations"])
    assert not out.exists()
    assert main(["sweep", *options, "--dry-run", "--out", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("cnn tiny 32² bf16, batch 8: 1 cells, 8 steps, ")
    assert said[1].startswith("1 cells, 0 finished, 1 to train: at most about ")


@pytest.mark.slow
def test_real_trainings_are_swept_and_compared(tmp_path: Path, capsys):
    options = [*REAL, "--set", "epochs=1"]
    axes = ["--recipe", "bf16", "--recipe", "nvfp4", "--seed", "0", "--seed", "1"]
    assert main(["sweep", *options, *axes, "--out", str(tmp_path / "runs")]) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "runs"), "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert [(row["recipe"], row["score"]["n"]) for row in group["rows"]] == [
        ("bf16", 2),
        ("nvfp4", 2),
    ]
    assert group["rows"][1]["effect"]["verdict"] == "too few pairs to say"
    for folder in filter(Path.is_dir, (tmp_path / "runs").iterdir()):
        assert {"run.qprobe", "last.pt", "best.pt"} <= {one.name for one in folder.iterdir()}


def start(out: Path, *options: str) -> "subprocess.Popen[str]":
    words = [*REAL, "--set", "epochs=6", "--out", str(out), *options]
    code = "from qprobe.cli.main import run; run()"
    command = [sys.executable, "-c", code, "sweep", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoints(out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(out.glob("*/best.pt"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def scores(out: Path) -> dict[str | None, dict[str, float]]:
    assert {entry.standing for entry in index(out)} == {Standing.FINISHED}
    return {entry.hash: dict(entry.scores["test"]) for entry in index(out)}


@pytest.mark.slow
def test_killed_and_interrupted_real_trainings_end_as_if_nothing_had_been(tmp_path: Path):
    axes = ("--recipe", "bf16", "--recipe", "nvfp4")
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    assert start(calm, *axes).communicate(timeout=120)[0].startswith("2 finished. 2 trainings in ")
    first = start(rough, *axes)
    wait_for_checkpoints(rough, 2)
    first.send_signal(signal.SIGINT)
    _, shown = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "interrupted cnn-tiny-phantom-" in shown
    second = start(rough, *axes)
    time.sleep(1.0)  # while its workers start or train
    second.kill()
    second.communicate()
    third = start(rough, *axes)
    wait_for_workers(third.pid)
    os.kill(workers_of(third.pid)[0], signal.SIGKILL)
    assert third.wait(timeout=120) == 0
    third.communicate()
    assert scores(rough) == scores(calm)


def workers_of(pid: int) -> list[int]:
    """The processes that a sweep has started to train."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in found if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]


def wait_for_workers(pid: int) -> None:
    deadline = time.monotonic() + 60
    while not workers_of(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
