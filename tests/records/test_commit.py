import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sample_runs import INFO, columns, ramp

import qprobe
from qprobe.errors import QprobeError
from qprobe.records import Status, create, resume
from qprobe.records.layout import SPAN


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as plain:
        return int(plain.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608


def test_a_whole_span_is_transposed_and_its_rows_are_gone(path: Path):
    with create(path, INFO) as run:
        ramp(run, range(SPAN - 1), count=40)
        assert (count(path, "live"), count(path, "chunk")) == (SPAN - 1, 0)
        ramp(run, range(SPAN - 1, SPAN), count=40)
        assert (count(path, "live"), count(path, "chunk")) == (0, 2)


def test_segments_end_their_spans_at_different_steps(path: Path):
    with create(path, INFO) as run:
        ramp(run, range(2 * SPAN), count=3 * 2048)
    with closing(sqlite3.connect(path)) as plain:
        ends = plain.execute("SELECT last_step, count(*) FROM span GROUP BY last_step").fetchall()
    assert len(ends) == 6
    assert {number for _, number in ends} == {1}


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_keeps_what_was_flushed(path: Path, background: bool):
    run = create(path, INFO, background=background)
    ramp(run, range(40), count=100)
    run.flush(wait=True)
    committer = run._committer._inner if background else run._committer  # type: ignore[attr-defined]
    pages = committer._connection.execute("PRAGMA page_count").fetchone()[0]
    committer._connection.execute(f"PRAGMA max_page_count = {pages + 3}")
    with pytest.raises(QprobeError, match=r"the disk is full.*run\.qprobe.*resume the run"):
        ramp(run, range(40, 1000), count=100)
    with pytest.raises(QprobeError, match="the disk is full"):
        run.record(0, columns(1, "other")[0], 1.0)
    run.close()
    check_prefix(path, at_least=40)


def check_prefix(path: Path, *, at_least: int) -> None:
    with closing(sqlite3.connect(path)) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with qprobe.open(path) as reader:
        assert reader.meta.status is Status.INTERRUPTED
        steps = {tuple(series.steps.tolist()) for _, series in reader.select()}
        assert len(steps) == 1
        (found,) = steps
    assert found == tuple(range(len(found)))
    assert len(found) >= at_least
    with resume(path) as run:  # with space, it goes on
        ramp(run, range(len(found), len(found) + 70), count=100)
    with qprobe.open(path) as reader:
        assert len(reader.series(*columns(100)[99])) == len(found) + 70


QUOTA = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from sample_runs import INFO, ramp
from qprobe.errors import QprobeError
from qprobe.records import create
run = create(sys.argv[1], INFO)
ramp(run, range(10), count=100)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
try:
    ramp(run, range(10, 2000), count=100)
except QprobeError as error:
    print(error)
    run.close()
"""


def test_a_quota_that_is_used_up_is_a_full_disk(path: Path):
    command = [sys.executable, "-c", QUOTA, path, Path(__file__).parent]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "the disk is full, or a quota is used up" in done.stdout
    check_prefix(path, at_least=10)


def test_an_error_in_the_middle_of_a_window_leaves_none_of_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    with create(path, INFO) as run:
        ramp(run, range(SPAN - 1))
    run = resume(path)
    original = run._committer._transpose  # type: ignore[attr-defined]

    def fail(layout: int, segment: int) -> None:
        original(layout, segment)
        raise MemoryError

    monkeypatch.setattr(run._committer, "_transpose", fail)
    with pytest.raises(MemoryError):
        ramp(run, range(SPAN - 1, SPAN))
    run.close()
    assert (count(path, "live"), count(path, "chunk"), count(path, "span")) == (SPAN - 1, 0, 0)
