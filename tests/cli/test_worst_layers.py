import math
import os
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from qprobe import records
from qprobe.cli.worst_layers import MEASURES, look, render
from qprobe.records import Column, RunInfo

CONFIG = {"arch": "cnn", "size": "tiny", "steps": 300}


@pytest.fixture
def run(tmp_path: Path):
    """Two looks at each layer: the later one counts."""

    def write(layers: dict[str, dict[str, float]], status=None) -> Path:
        path = tmp_path / "run.qprobe"
        with records.create(path, RunInfo(config=CONFIG, environment={}, recipe="nvfp4")) as writer:
            for step in (10, 20):
                writer.record(step, Column("", "", "training", "loss"), step / 100)
                for layer, values in layers.items():
                    for key, value in values.items():
                        late = value if step == 20 else 99.0
                        probe = "four_bit" if "." in key else "moments"
                        writer.record(step, Column(layer, "input", probe, key), late)
        return path

    return write


def shown(path: Path, by: str = "nvfp4", rows: int = 15, width: int = 200) -> list[str]:
    text = StringIO()
    with records.open(path) as reader:
        Console(width=width, file=text).print(render(look(reader, by), rows))
    return text.getvalue().splitlines()


LAYERS = {
    "stem": {"nvfp4.sqnr_db": 20.0, "nvfp4.underflow": 0.5, "kurtosis": 3.0},
    "bad": {"nvfp4.sqnr_db": 8.0, "nvfp4.underflow": 0.25, "kurtosis": 40.0},
    "head": {"kurtosis": 100.0},
}


def test_the_worst_layer_comes_first_and_what_was_not_measured_last(run):
    lines = shown(run(LAYERS))
    assert lines[0].rstrip() == "cnn tiny  nvfp4  step 20 of 300  finished"
    assert lines[1].rstrip() == "loss 0.2"
    assert lines[2].split() == ["layer", "tensor", "NVFP4", "dB", "underflow", "kurtosis"]
    assert [line.split() for line in lines[3:]] == [
        ["bad", "input", "8.0", "25.0%", "40.0"],
        ["stem", "input", "20.0", "50.0%", "3.0"],
        ["head", "input", "-", "-", "100.0"],
    ]


@pytest.mark.parametrize(
    ("by", "order"),
    [("kurtosis", ["head", "bad", "stem"]), ("underflow", ["stem", "bad", "head"])],
)
def test_other_ranks(run, by, order):
    assert [line.split()[0] for line in shown(run(LAYERS), by)[3:]] == order


def test_nan_is_worst_and_says_so(run):
    lines = shown(run(LAYERS | {"broken": {"nvfp4.sqnr_db": math.nan}}))
    assert lines[3].split()[:3] == ["broken", "input", "nan"]


def test_what_is_cut_is_counted(run):
    assert shown(run(LAYERS), rows=1)[-1].rstrip() == "2 more are better by NVFP4 dB."


@pytest.mark.parametrize(
    ("width", "by", "head"),
    [
        (40, "nvfp4", ["layer", "tensor", "NVFP4", "dB"]),
        (34, "nvfp4", ["layer", "tensor", "NVFP4", "dB"]),
        (46, "nvfp4", ["layer", "tensor", "NVFP4", "dB", "underflow"]),
        (40, "kurtosis", ["layer", "tensor", "kurtosis"]),
    ],
)
def test_a_narrow_terminal_loses_measures_and_never_names(run, width, by, head):
    long = "blocks.11.attention.projection"
    lines = shown(run({long: LAYERS["bad"]}), by, width=width)
    rows = lines[[line.split()[:1] for line in lines].index(["layer"]) :]
    assert rows[0].split() == head
    assert "".join(row.split()[0] for row in rows[1:]) == long
    assert not any("…" in row for row in rows)


def test_what_nothing_can_be_ranked_by_is_said(run):
    lines = shown(run({"stem": {"kurtosis": 3.0}, "head": {"kurtosis": 9.0}}), rows=1)
    assert lines[-1].rstrip() == (
        "No layer has NVFP4 dB, so these are in no order; 1 more in the run; rank with --by "
        "kurtosis."
    )


def test_a_run_without_layers_says_so(run):
    assert "No layer has been watched yet: the run was trained without" in shown(run({}))[-1]


def test_an_analysis_is_not_called_a_training(tmp_path):
    path = tmp_path / "a.qprobe"
    records.create(path, RunInfo(config={"kind": "analysis"}, environment={})).close()
    assert "this is an analysis, which the dashboard shows" in shown(path)[-1]


def test_names_are_no_markup(run):
    assert "[/bold]x" in shown(run({"[/bold]x": {"kurtosis": 1.0}}))[3]


def test_a_run_that_stands_still_says_for_how_long(tmp_path):
    path = tmp_path / "run.qprobe"
    with records.create(path, RunInfo(config={}, environment={})) as writer:
        writer.record(1, Column("", "", "training", "loss"), 1.0)
        writer.flush()
        assert "running" in shown(path)[0]
        assert "nothing new" not in shown(path)[0]
        for place in tmp_path.glob("run.qprobe*"):
            os.utime(place, (time.time() - 120,) * 2)
        assert "nothing new for 2 min" in shown(path)[0]


def test_every_measure_ranks_one_way_or_the_other():
    for measure in MEASURES.values():
        worse, better = (1.0, 2.0) if measure.low_is_worse else (2.0, 1.0)
        assert math.inf == measure.badness(math.nan) > measure.badness(worse)
        assert measure.badness(worse) > measure.badness(better)
