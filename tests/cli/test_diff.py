import json
import math
from pathlib import Path

import pytest

from qprobe import records
from qprobe.cli.main import main
from qprobe.records import Column, RunInfo

OUTPUT = Column("encoder.0.conv", "output", "moments", "kurtosis")


@pytest.fixture
def runs(tmp_path: Path):
    def write(*values: float, column: Column = OUTPUT) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.qprobe"
        with records.create(path, RunInfo(config={}, environment={})) as writer:
            for step, value in enumerate(values):
                writer.record(step, column, value)
        return str(path)

    return write


def test_runs_that_agree(runs, capsys):
    assert main(["diff", runs(1.0, 2.0), runs(1.0, 2.0, 3.0)]) == 0
    assert capsys.readouterr().out == "The runs agree in all 2 values, up to step 1.\n"


def test_runs_that_part_name_step_and_layer_and_exit_with_1(runs, capsys):
    assert main(["diff", runs(1.0, 2.0), runs(1.0, 4.0)]) == 1
    said = capsys.readouterr().out
    assert said.startswith(
        "The runs part at step 1 in encoder.0.conv: moments.kurtosis of output is 2 and 4. "
        "1 value differs there; 2 were compared, up to step 1."
    )
    assert "moments.kurtosis" in said
    assert "0.5" in said


def test_a_tolerance(runs):
    assert main(["diff", runs(1.0), runs(1.001), "--tolerance", "0.01"]) == 0


def test_json_has_everything_and_numbers_that_are_none_as_text(runs, capsys):
    other = Column("head", "output", "moments", "mean")
    assert main(["diff", runs(1.0), runs(math.nan), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == [
        {"step": 0, "column": OUTPUT._asdict(), "first": 1.0, "second": "nan", "relative": "inf"}
    ]
    assert main(["diff", runs(1.0), runs(1.0, column=other), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["only_first"] == [OUTPUT._asdict()]
    assert found["only_second"] == [other._asdict()]


def test_nothing_in_common_is_said(runs, capsys):
    other = Column("head", "output", "moments", "mean")
    assert main(["diff", runs(1.0), runs(1.0, column=other)]) == 1  # not the same, for a script
    said = capsys.readouterr().out
    assert "no measurement in common" in said
    assert "Only the second run has 1 series, such as moments.mean of head output." in said


def test_a_file_that_is_no_run_is_one_sentence(runs, tmp_path, capsys):
    (tmp_path / "no.qprobe").write_text("text")
    assert main(["diff", runs(1.0), str(tmp_path / "no.qprobe")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_pipe_cuts_no_name_short(runs, capsys):
    long = Column("encoder.0.conv", "output", "moments", "channel_kurtosis_" + "x" * 80)
    assert main(["diff", runs(1.0, column=long), runs(2.0, column=long)]) == 1
    assert f"moments.{long.key}  1" in capsys.readouterr().out


def test_hostile_names_are_shown_as_they_are(runs, capsys):
    bad = Column("[bold]x[/nope]", "output", "moments", "mean")
    assert main(["diff", runs(1.0, column=bad), runs(2.0, column=bad)]) == 1
    assert "[bold]x[/nope]" in capsys.readouterr().out
