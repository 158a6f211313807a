"""Folders and checkpoints where a run file is asked for."""

import pytest

from qprobe import records
from qprobe.cli.main import main
from qprobe.cli.run_place import analysis_of, run_of
from qprobe.errors import InputError
from qprobe.records import Column, RunInfo


def run(path, recipe=None, kind=None, value=1.0):
    config = {"recipe": recipe} | ({} if kind is None else {"kind": kind})
    with records.create(path, RunInfo(config=config, environment={}, recipe=recipe)) as writer:
        writer.record(0, Column("head", "input", "moments", "kurtosis"), value)
    return path


@pytest.fixture
def folder(tmp_path):
    """A training with the analysis of its checkpoint and the comparison of its folder."""
    run(tmp_path / "run.qprobe", "bf16")
    run(tmp_path / "best-nvfp4.qprobe", "nvfp4", "analysis")
    run(tmp_path / "recipes.qprobe", None, "analysis")
    (tmp_path / "best.pt").write_bytes(b"weights")
    return tmp_path


def test_a_folder_is_its_training_or_the_analysis_in_it(folder):
    assert run_of(folder).name == "run.qprobe"
    assert analysis_of(folder).name == "best-nvfp4.qprobe"


def test_the_only_run_below_is_meant(tmp_path):
    (tmp_path / "deep").mkdir()
    only = run(tmp_path / "deep" / "x.qprobe")
    assert run_of(tmp_path) == only


def test_of_several_none_is_meant(folder):
    run(folder / "best-int4.qprobe", "int4-tensor", "analysis")
    said = r"several analyses \(best-int4.qprobe, best-nvfp4.qprobe\); name one"
    with pytest.raises(InputError, match=said):
        analysis_of(folder)
    (folder / "run.qprobe").unlink()
    with pytest.raises(InputError, match=r"holds 3 runs, such as .*; name one"):
        run_of(folder)


@pytest.mark.parametrize("meant", [run_of, analysis_of])
def test_what_holds_none_says_so(meant, tmp_path):
    with pytest.raises(InputError, match="holds no"):
        meant(tmp_path)


@pytest.mark.parametrize(
    "command", [["plan", "--keep", "1"], ["diff", "{folder}"], ["watch"]], ids=lambda one: one[0]
)
def test_a_checkpoint_is_told_what_makes_a_run_of_it(command, folder, capsys):
    name, *rest = (one.format(folder=folder) for one in command)
    assert main([name, *rest, str(folder / "best.pt")]) == 2
    assert "best.pt holds weights and is no run; 'qprobe analyze " in capsys.readouterr().err


def test_two_folders_are_compared(folder, tmp_path_factory, capsys):
    other = tmp_path_factory.mktemp("other")
    run(other / "run.qprobe", "bf16", value=2.0)
    assert main(["diff", str(folder), str(other)]) == 1
    assert "part at step 0 in head" in capsys.readouterr().out
