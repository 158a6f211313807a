import json
import tomllib
from pathlib import Path

import pytest
from sample_plans import interval, layer, whole

from qprobe.cli import plan as plan_command
from qprobe.cli.main import main
from qprobe.plan import Tool
from qprobe.records import Column, RunInfo, create

LAYERS = [*layer("blocks.0.mlp", 90, 0.15), *layer("head", 5, 0.08), *layer("stem", 5, -0.02)]


def write(path: Path, records, recipe: str | None = "nvfp4") -> Path:
    with create(path, RunInfo(config={}, environment={}, recipe=recipe)) as run:
        for one in records:
            run.record(one.step, Column(one.site, one.role, one.probe, one.key), one.value)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "model.qprobe", [*whole(), *LAYERS])


def test_the_table(run, capsys):
    assert main(["plan", str(run), "--keep", "5%"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "nvfp4: keep 1 of 3 layers in high precision (5 % of 100 parameters); "
        "asked for at most 5 % of the parameters in high precision",
        "",
        "high precision   0.9000",
        "all quantized    0.7000",
        "plan, predicted  0.7800 [0.7700, 0.7900]",
        "plan, measured   not yet",
        "",
        "layer  parameters  gives back",
        "head            5  +0.0800 [+0.0700, +0.0900]",
    ]


def test_a_target(run, capsys):
    assert main(["plan", str(run), "--target", "99%", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert [one["path"] for one in made["kept"]] == ["blocks.0.mlp", "head"]
    assert made["kept_share"] == 0.95
    assert made["measured"] is None


def test_a_configuration_goes_alone_to_standard_output(run, capsys):
    assert main(["plan", str(run), "--keep", "1", "--to", "qprobe"]) == 0
    seen = capsys.readouterr()
    assert tomllib.loads(seen.out) == {"blocks.0.mlp": "bf16", "head": "nvfp4", "stem": "nvfp4"}
    assert "keep 1 of 3 layers" in seen.err


def test_a_configuration_in_a_file(run, tmp_path, capsys):
    out = tmp_path / "plan.yaml"
    command = ["plan", str(run), "--keep", "1", "--to", "te", "--out", str(out)]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {out}"
    assert main(command) == 2
    assert "exists already; give --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def test_nothing_to_keep(tmp_path, capsys):
    gap = interval("", "gap", 0.0)
    run = write(tmp_path / "m.qprobe", [*whole(score_q=0.9), *gap, *layer("a", 1, -0.1)])
    assert main(["plan", str(run), "--target", "99%"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "Nothing has to stay in high precision: nothing was lost.",
        "note: the interval of the score lost to quantization contains 0: there may be nothing to "
        "give back.",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give either --keep (such as 5%) or --target"),
        (["--keep", "5%", "--target", "99%"], "give either --keep"),
        (["--keep", "lots"], "--keep takes a percentage"),
        (["--keep", "5%", "--out", "x.toml"], "needs --to"),
        (["--keep", "5%", "--to", "tensorrt"], "there is no export to 'tensorrt'"),
        (["--target", "100%", "--recipe", "mine", "--to", "te"], "te has no counterpart"),
        (["--keep", "5%", "--to", "te", "--out", "none/here.yaml"], "cannot be written"),
    ],
)
def test_bad_usage_is_one_sentence(run, arguments, sentence, capsys):
    assert main(["plan", str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"not a run" * 100, None])
def test_a_file_that_is_no_run(tmp_path, content, capsys):
    path = tmp_path / "bad.qprobe"
    if content is not None:
        path.write_bytes(content)
    assert main(["plan", str(path), "--keep", "5%"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_runs_that_say_too_little(tmp_path, capsys):
    training = write(tmp_path / "training.qprobe", [])
    assert main(["plan", str(training), "--keep", "5%"]) == 2
    assert "holds no recoveries of layers" in capsys.readouterr().err
    nameless = write(tmp_path / "nameless.qprobe", [*whole(), *LAYERS], recipe=None)
    assert main(["plan", str(nameless), "--keep", "5%"]) == 2
    assert "--recipe" in capsys.readouterr().err
    assert main(["plan", str(nameless), "--keep", "5%", "--recipe", "nvfp4"]) == 0


def test_the_tools_that_are_named_are_those_that_there_are():
    assert plan_command._TOOLS.split(", ") == [str(tool) for tool in Tool]
