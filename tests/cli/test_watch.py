import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qprobe import records
from qprobe.cli.main import main
from qprobe.records import Column, RunInfo

INPUT = Column("head", "input", "four_bit", "nvfp4.sqnr_db")


@pytest.fixture
def writer(tmp_path: Path):
    with records.create(tmp_path / "run.qprobe", RunInfo(config={}, environment={})) as run:
        run.record(1, INPUT, 12.5)
        run.flush()
        yield run


def test_in_a_pipe_it_shows_once(writer, tmp_path, capsys):
    assert main(["watch", str(tmp_path / "run.qprobe")]) == 0
    assert "12.5" in capsys.readouterr().out
    assert main(["watch", str(tmp_path)]) == 0  # the only run of the folder


def test_of_a_training_with_analyses_beside_it_the_training_is_shown(writer, tmp_path, capsys):
    (tmp_path / "best-nvfp4.qprobe").touch()
    assert main(["watch", str(tmp_path)]) == 0
    assert "12.5" in capsys.readouterr().out


def test_a_folder_of_several_runs_is_asked_back(tmp_path, capsys):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.qprobe").touch()
    assert main(["watch", str(tmp_path)]) == 2
    assert "holds 2 runs" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["watch", str(tmp_path / "empty")]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--by", "speed"], ["--rows", "0"], ["--every", "0"]])
def test_wrong_words_are_one_sentence(writer, tmp_path, capsys, arguments):
    assert main(["watch", str(tmp_path / "run.qprobe"), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_on_a_terminal_it_follows_the_run_to_its_end(tmp_path):
    path = tmp_path / "run.qprobe"
    with records.create(path, RunInfo(config={}, environment={})) as run:
        run.record(1, INPUT, 12.5)
        run.flush()
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "qprobe", "watch", str(path), "--every", "0.2"]
        child = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs)
        os.close(theirs)
        seen = _until(ours, b"12.5")
        run.record(2, INPUT, 7.25)
        run.flush()
        seen += _until(ours, b"7.2")
    seen += _until(ours, b"finished")
    assert child.wait(20) == 0
    assert seen.index(b"12.5") < seen.index(b"7.2") < seen.index(b"finished")
    os.close(ours)


def _until(stream: int, word: bytes) -> bytes:
    seen, deadline = b"", time.monotonic() + 30
    while word not in seen:
        assert time.monotonic() < deadline, seen
        try:
            seen += os.read(stream, 65536)
        except OSError:  # the other end closed the terminal
            break
    assert word in seen, seen
    return seen
