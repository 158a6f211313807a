import os
import stat
import time

import pytest
import synthetic_runs

from qprobe.dashboard.library import Library
from qprobe.errors import InputError
from qprobe.records import Column, Status, resume


def names(library):
    return [run.name for run in library.runs(now=True)]


def test_run_files_go_by_their_folder_and_others_by_their_name(tmp_path):
    synthetic_runs.training(tmp_path / "a" / "run.qprobe", full=False)
    synthetic_runs.training(tmp_path / "b" / "c.qprobe", full=False)
    synthetic_runs.training(tmp_path / "b" / "c" / "run.qprobe", full=False)
    assert names(Library([tmp_path])) == ["a", "b/c", "b/c/run.qprobe"]


def test_a_folder_is_watched(tmp_path):
    library = Library([tmp_path])
    assert names(library) == []
    path = synthetic_runs.training(tmp_path / "one.qprobe", full=False)
    synthetic_runs.corrupt(tmp_path / "half.qprobe")
    (tmp_path / ".two.qprobe.new").write_bytes(b"")
    assert names(library) == ["half", "one"]
    half, one = library.runs()
    assert "truncated" in half.problem
    assert one.problem is None
    assert one.status is Status.FINISHED
    path.unlink()
    assert names(library) == ["half"]


def test_what_did_not_change_is_not_read_again(tmp_path, monkeypatch):
    path = synthetic_runs.training(tmp_path / "one.qprobe", full=False)
    library = Library([tmp_path])
    (before,) = library.runs(now=True)
    assert library.runs(now=True) == [before]
    assert library.runs(now=True)[0] is before
    with resume(path) as writer:
        writer.record(101, Column("", "", "other", "x"), 1.0)
        writer.flush()
        assert library.runs(now=True)[0].status is Status.RUNNING
    assert library.runs(now=True)[0].status is Status.FINISHED


def test_answers_follow_the_file(tmp_path):
    path = synthetic_runs.training(tmp_path / "one.qprobe", full=False)
    library = Library([tmp_path])
    (run,) = library.runs(now=True)
    calls = []

    def read(reader):
        calls.append(reader.path)
        return len(reader.columns())

    assert library.answer(run, read) == library.answer(run, read)
    assert len(calls) == 1
    with resume(path) as writer:
        writer.record(101, Column("", "", "other", "x"), 1.0)
    assert library.answer(run, read) == 4
    assert len(calls) == 2


def test_nothing_is_written(tmp_path):
    synthetic_runs.training(tmp_path / "one.qprobe", full=False)
    before = sorted(tmp_path.iterdir())
    Library([tmp_path]).runs()
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_rights_is_a_problem_and_no_crash(tmp_path):
    path = synthetic_runs.training(tmp_path / "one.qprobe", full=False)
    path.chmod(stat.S_IWUSR)
    (run,) = Library([tmp_path]).runs()
    assert "rights" in run.problem


def test_analyses_are_joined_to_their_training(library):
    training = library.run("vit-nvfp4-s0")
    (analysis,) = library.analyses(training)
    assert analysis.name == "vit-nvfp4-s0/analysis"
    assert not analysis.is_training
    assert library.analyses(library.run("vit-bf16-s0")) == []


def test_paths_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is nothing at"):
        Library([tmp_path / "gone"])
    with pytest.raises(InputError, match="nothing to show"):
        Library([])


@pytest.mark.slow
def test_a_thousand_runs_are_listed_and_then_only_looked_at(tmp_path):
    library = Library([synthetic_runs.many(tmp_path)])
    assert len(library.runs()) == 1000
    began = time.perf_counter()
    assert len(library.runs(now=True)) == 1000
    assert time.perf_counter() - began < 1
