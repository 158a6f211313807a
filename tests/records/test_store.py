import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sample_runs import INFO, columns, ramp

import qprobe
from qprobe.errors import InputError, QprobeError
from qprobe.records import RunWriter, Status, create, migrations, resume
from qprobe.records.store import APPLICATION_ID, check_file, explained, open_for_reading


@pytest.fixture
def finished(path: Path) -> Path:
    with create(path, INFO) as run:
        ramp(run, range(130), count=40)
    return path


def test_the_file_says_what_it_is(finished: Path):
    with closing(sqlite3.connect(finished)) as plain:
        assert plain.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert plain.execute("PRAGMA user_version").fetchone() == (len(migrations.MIGRATIONS),)
    assert finished.read_bytes()[68:72] == b"qpro"


def test_writing_uses_a_log_with_normal_durability(writer: RunWriter):
    connection = writer._committer._connection  # type: ignore[attr-defined]
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (1,)


@pytest.mark.parametrize("use", [qprobe.open, resume])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no run at"),
        (b"", "is empty"),
        (b"epoch,loss\n1,0.5\n" * 100, "does not start like a SQLite file"),
        (b"SQ", "is truncated: it has 2 bytes"),
        (b"SQLite format 3\x00", "is truncated: it has 16 bytes"),
    ],
)
def test_a_file_that_is_no_run_is_named(
    path: Path, use: Callable[[Path], object], content: bytes | None, message: str
):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"run\.qprobe.*{message}|{message} .*run\.qprobe"):
        use(path)
    assert not path.exists() or path.read_bytes() == content


@pytest.mark.parametrize("use", [qprobe.open, resume])
def test_a_folder_is_named(tmp_path: Path, use: Callable[[Path], object]):
    with pytest.raises(InputError, match="is a folder; name one"):
        use(tmp_path)


@pytest.mark.parametrize("use", [qprobe.open, resume])
def test_a_file_of_another_program_is_refused(path: Path, use: Callable[[Path], object]):
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA application_id = 252006675")
        other.execute("CREATE TABLE run (id)")
        other.commit()
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"of another program \(application id 252006675\)"):
        use(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("use", [qprobe.open, resume])
def test_a_newer_schema_is_refused_by_name(finished: Path, use: Callable[[Path], object]):
    newer = len(migrations.MIGRATIONS) + 3
    with closing(sqlite3.connect(finished)) as other:
        other.execute(f"PRAGMA user_version = {newer}")
    with pytest.raises(
        InputError, match=f"has schema {newer} .* newer qprobe; this one .* upgrade"
    ):
        use(finished)


@pytest.mark.parametrize("use", [qprobe.open, resume])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.999])
def test_a_truncated_file_is_named(finished: Path, use: Callable[[Path], object], kept: float):
    size = finished.stat().st_size
    os.truncate(finished, int(size * kept))
    with pytest.raises(InputError, match=f"is truncated: it has .* should have at least {size:,}"):
        use(finished)


def test_damage_to_the_structure_is_an_error_that_names_the_file(finished: Path):
    whole = finished.read_bytes()
    named = 0
    for start in range(8192, len(whole), 8192):
        finished.write_bytes(whole[:start] + b"\xa5" * 64 + whole[start + 64 :])
        message = what_reading_says(finished)
        assert message is None or "run.qprobe is damaged or truncated" in message
        named += message is not None
    assert named >= 5


def what_reading_says(path: Path) -> str | None:
    try:
        with qprobe.open(path) as reader:
            list(reader.records())
            reader.metrics()
    except InputError as error:
        return str(error)
    return None


def test_a_reader_cannot_write(finished: Path):
    with (
        closing(open_for_reading(finished)) as connection,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        connection.execute("DELETE FROM series")


READ = """
import sys, qprobe
with qprobe.open(sys.argv[1]) as reader:
    print(reader.meta.status, sum(len(series) for _, series in reader.select()))
"""


def read_without_rights(path: Path) -> subprocess.CompletedProcess[str]:
    """Open the run in a process that may not write where the file rights forbid it."""

    def drop_rights() -> None:
        import ctypes

        if os.geteuid() == 0:  # the superuser overrides file rights by a capability
            for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
                ctypes.CDLL(None).prctl(24, capability)  # PR_CAPBSET_DROP

    return subprocess.run(
        [sys.executable, "-c", READ, path],
        preexec_fn=drop_rights,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
@pytest.mark.parametrize("logged", [False, True])
def test_a_read_only_folder_is_enough_to_read(finished: Path, logged: bool):
    if logged:  # as after a writer that closed while somebody was reading
        with closing(sqlite3.connect(finished)) as plain:
            plain.execute("PRAGMA journal_mode = WAL")
    finished.chmod(0o444)
    finished.parent.chmod(0o555)
    try:
        done = read_without_rights(finished)
    finally:
        finished.parent.chmod(0o755)
    assert (done.stdout, done.stderr) == (f"finished {130 * 40}\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_a_log_that_cannot_be_read_is_not_ignored(writer: RunWriter, path: Path, tmp_path: Path):
    ramp(writer, range(10))
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("run.qprobe", "run.qprobe-wal"):
        shutil.copy(path.with_name(name), folder)
    folder.chmod(0o555)
    try:
        done = read_without_rights(folder / "run.qprobe")
    finally:
        folder.chmod(0o755)
    assert "was not closed and its folder is read-only" in done.stderr
    with qprobe.open(folder / "run.qprobe") as reader:
        assert len(reader.series(*columns(10)[0])) == 10


def test_closing_while_somebody_reads_keeps_all_of_it(path: Path):
    with create(path, INFO) as run:
        ramp(run, range(70))
        reader = qprobe.open(path)
    with reader:
        assert reader.meta.status is Status.FINISHED
        assert len(reader.series(*columns(10)[0])) == 70
    with resume(path) as run:
        ramp(run, range(70, 80))
    with qprobe.open(path) as reader:
        assert len(reader.series(*columns(10)[0])) == 80


def test_a_reader_that_stays_open_sees_a_resumed_run(path: Path):
    with create(path, INFO) as run:
        ramp(run, range(5))
    with qprobe.open(path) as reader:
        assert len(reader.series(*columns(10)[0])) == 5
        with resume(path) as run:
            ramp(run, range(5, 9))
            assert len(reader.series(*columns(10)[0])) == 9
            assert reader.meta.status is Status.RUNNING


def test_what_a_killed_creation_leaves_is_replaced(path: Path):
    path.with_name(".run.qprobe.new").write_bytes(b"half a file")
    create(path, INFO).close()
    assert [entry.name for entry in path.parent.iterdir()] == ["run.qprobe"]


def test_a_locked_file_is_explained(path: Path):
    with closing(sqlite3.connect(path)) as one, closing(sqlite3.connect(path, timeout=0)) as two:
        one.execute("BEGIN EXCLUSIVE")
        expected = pytest.raises(QprobeError, match=r"reading .*run\.qprobe waited .* close that")
        with expected, explained(path, "reading"):
            two.execute("BEGIN EXCLUSIVE")


def test_a_whole_file_is_accepted(finished: Path):
    check_file(finished)
