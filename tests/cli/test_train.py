import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from run_contents import differences, measured

from qprobe import records
from qprobe.cli.main import main
from qprobe.cli.train import name_of
from qprobe.engine import TrainConfig
from qprobe.records import Status


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    cache = tmp_path_factory.mktemp("cache")
    options = ("patients=12", "slices=4", f"cache={cache}")
    return tuple(word for option in options for word in ("--data-option", option))


@pytest.fixture
def small(data) -> tuple[str, ...]:
    return (
        "train", "--size", "tiny", "--image", "32", "--batch", "8", "--epochs", "2",
        "--set", "validation=2", "--set", "test=2", "--set", "device=cpu", *data,
    )  # fmt: skip


def settings(folder: Path) -> dict:
    with records.open(folder / "run.qprobe") as run:
        return dict(run.meta.config)


def test_it_trains_and_says_how_it_ended(small, tmp_path, capsys):
    assert main([*small, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].startswith("Finished after 8 steps. Test: loss ")
    assert "  auprc " in lines[0]
    assert lines[1] == f"{tmp_path / 'run'}/best.pt"
    title, *epochs = said.err.splitlines()
    assert title == "cnn tiny on phantom 32², bf16: 0 layers quantized, 8 in fp32, on cpu"
    assert [line.split("  ")[:2] for line in epochs] == [
        ["step 4/8", "epoch 1"],
        ["step 8/8", "epoch 2"],
    ]
    assert "\x1b" not in said.err + said.out


def test_quiet_is_quiet_and_json_is_json(small, tmp_path, capsys):
    assert main([*small, "--quiet", "--out", str(tmp_path / "a")]) == 0
    assert capsys.readouterr() == ("", "")
    assert main([*small, "--json", "--out", str(tmp_path / "b")]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    result = json.loads(said.out)
    assert (result["status"], result["steps"], result["epochs"]) == ("finished", 8, 2)
    assert result["folder"] == str(tmp_path / "b")
    metrics = measured(tmp_path / "b")["metrics"]
    assert result["test"] == {name: value for _, _, part, name, value in metrics if part == "test"}


def test_json_has_no_number_that_json_has_not(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("qprobe.engine.loop._score", lambda *_: float("-inf"))
    assert main([*small, "--json", "--out", str(tmp_path / "run")]) == 0

    def refuse(text):
        raise AssertionError(text)

    result = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert result["best_score"] == "-inf"


def test_options_come_over_the_file_and_set_over_both(small, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text(
        'lr = 0.1\nseed = 3\nrecipe = "nvfp4"\nclip = 2.0\n[model]\ndropout = 0.1\nstages = 3\n'
    )
    out = ("--out", str(tmp_path / "run"), "--steps", "1", "--quiet")
    assert main([
        *small, *out, "--config", str(file), "--lr", "0.2", "--recipe", "nvfp4-fwd",
        "--set", "recipe=nvfp4-chain", "--set", "schedule=cosine", "--model-option", "stages=2",
    ]) == 0  # fmt: skip
    found = settings(tmp_path / "run")
    assert (found["lr"], found["seed"], found["recipe"]) == (0.2, 3, "nvfp4-chain")
    assert (found["clip"], found["schedule"]) == (2.0, "cosine")
    assert found["model"] == {"dropout": 0.1, "stages": 2}
    assert found["data_options"]["patients"] == 12


def test_a_number_in_a_file_may_be_whole(small, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("clip = 1\nlr = 1\n")
    assert main([*small, "--config", str(file), "--steps", "1", "-o", str(tmp_path / "run")]) == 0
    assert repr(settings(tmp_path / "run")["clip"]) == "1.0"


def bad_file(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return ["--config", str(file)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "lr"], "a setting is given as name=value, got 'lr'."),
        (["--set", "=3"], "a setting is given as name=value, got '=3'."),
        (["--set", "learning=3"], "a training has no setting 'learning'"),
        (["--set", "model=3"], "model is a table of options, got 3."),
        (["--set", "epochs=two"], "epochs is of type int, got 'two'."),
        (["--set", "model.dropout=1"], "a training has no setting 'model.dropout'"),
        (["--recipe", "nvfp5"], "nvfp5"),
        (["--arch", "cmm"], "cmm"),
        (["--size", "5m"], "there is no size '5m' of CNN"),
        (["--data", "phantoms"], "there is no data set called 'phantoms'"),
        (["--model-option", "depth=3"], "takes no option 'depth'"),
        (["--data-option", "noise=3"], "'phantom' has no option 'noise'"),
        (["--config", "/nowhere/settings.toml"], "/nowhere/settings.toml cannot be read"),
        (["--resume", "/nowhere"], "so size cannot be given"),
    ],
)
def test_bad_settings_end_in_one_sentence(arguments, sentence, small, tmp_path, capsys):
    assert main([*small, "--out", str(tmp_path / "run"), *arguments]) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""
    assert not (tmp_path / "run" / "run.qprobe").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lr = ", "is not TOML"),
        ("model = 3", "model is a table of options, got 3."),
        ("[model.act]\nname = 'relu'", "model.act is a truth value"),
        ("data_options = 'x'", "data_options is a table of options, got 'x'."),
        ("seed = 2020-01-01", "seed is of type int"),
    ],
)
def test_a_bad_file_ends_in_one_sentence(text, sentence, small, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert main([*small, *out, *bad_file(tmp_path, text)]) == 2
    assert sentence in capsys.readouterr().err


def test_a_folder_is_taken_up_by_resume_only(small, tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main([*small, "--quiet", "--out", run]) == 0
    assert main([*small, "--quiet", "--out", run]) == 2
    assert "holds a training already" in capsys.readouterr().err
    assert main(["train", "--resume", run]) == 0
    assert capsys.readouterr().out.startswith("Finished after 8 steps.")
    for extra in (["--lr", "1"], ["--out", run], ["--set", "seed=1"], ["--model-option", "a=1"]):
        assert main(["train", "--resume", run, *extra]) == 2
        assert "keeps its settings and its folder" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path)]) == 2
    assert f"there is no training in {tmp_path}: it has no run.qprobe." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (TrainConfig(), "cnn-500k-bf16-s0"),
        (TrainConfig(arch="monai:UNet", fold=2, recipe="nvfp4"), "monai-UNet-500k-nvfp4-s0-f2"),
    ],
)
def test_the_default_folder_says_what_is_trained(config, name):
    assert name_of(config) == name


def test_a_loss_that_is_not_finite_is_exit_code_1(small, tmp_path, capsys):
    arguments = ["--set", "optimizer=sgd", "--lr", "1e30", "--out", str(tmp_path / "run")]
    assert main([*small, *arguments]) == 1
    said = capsys.readouterr().out
    assert said.startswith("Stopped: the ")
    assert said.endswith(f"What was recorded is in {tmp_path / 'run'}/run.qprobe.\n")
    with records.open(tmp_path / "run" / "run.qprobe") as run:
        assert run.meta.status is Status.FAILED


# The command with steps that last, so that there is time to interrupt one of them.
SLOW = """
import sys, time
from qprobe.cli import progress
from qprobe.cli.main import main
from qprobe.engine import Callback

class Slow(Callback):
    def step(self, training):
        print("step", training.step, file=sys.stderr, flush=True)
        time.sleep(float(sys.argv[1]))

progress.progress = Slow
sys.exit(main(sys.argv[2:]))
"""


def interrupted(
    arguments: list[str], step: int, signals: int, pause_s: float
) -> tuple[int, str, str]:
    """Run the command and press Ctrl-C while it sleeps in a step."""
    command = [sys.executable, "-c", SLOW, str(pause_s), *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if line == f"step {step}\n":
                break
        for _ in range(signals):
            time.sleep(0.05)
            os.kill(child.pid, signal.SIGINT)
        out, err = child.communicate(timeout=60)
    return child.returncode, out, err


def test_ctrl_c_saves_and_the_resumed_run_is_the_same(small, tmp_path, capsys):
    # What a budget leaves room for depends on how busy the machine is.
    recipe = ["--recipe", "nvfp4-sr", "--budget", "none"]
    parts = tmp_path / "a folder"
    code, out, err = interrupted([*small, *recipe, "--out", str(parts)], 3, 1, 0.2)
    assert code == 130
    assert out == f"Saved after step 3. Go on with: qprobe train --resume '{parts}'\n"
    assert "Traceback" not in err
    assert measured(parts)["status"] is Status.INTERRUPTED
    assert main(["train", "--resume", str(parts), "--budget", "none"]) == 0
    assert main([*small, *recipe, "--out", str(tmp_path / "whole")]) == 0
    assert differences(tmp_path / "whole", parts) == []


def test_a_second_ctrl_c_stops_at_once(small, tmp_path):
    start = time.monotonic()
    code, out, err = interrupted([*small, "--out", str(tmp_path / "run")], 1, 2, 30.0)
    assert time.monotonic() - start < 25
    assert code == 130
    assert (out, err) == ("", "qprobe: interrupted.\n")
    with records.open(tmp_path / "run" / "run.qprobe") as run:
        assert run.meta.status is Status.INTERRUPTED


def test_a_resumed_run_takes_the_threads_it_had(small, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    run = str(tmp_path / "run")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert main([*small, "--steps", "1", "--quiet", "--threads", "2", "--out", run]) == 0
    assert main(["train", "--quiet", "--resume", run]) == 0
    assert main(["train", "--quiet", "--resume", run, "--threads", "3"]) == 0
    assert main([*small, "--steps", "1", "--quiet", "--out", str(tmp_path / "b")]) == 0
    assert seen == [2, 2, 3, 1]
    assert main(["train", "--resume", run, "--threads", "0"]) == 2
