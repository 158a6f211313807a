import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sample_runs import INFO, columns, ramp

import qprobe
from qprobe.records import create, migrations, resume
from qprobe.records.migrations import MIGRATIONS, migrate

FROZEN = Path(__file__).parent / "schemas"


def schema(connection: sqlite3.Connection) -> str:
    rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY name")
    return "".join(f"{row[0]};\n\n" for row in rows)


def empty() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS) + 1))
def test_released_schemas_never_change(version: int):
    with closing(empty()) as connection:
        migrate(connection, MIGRATIONS[:version])
        frozen = (FROZEN / f"{version}.sql").read_text(encoding="utf-8")
        assert schema(connection) == frozen


def test_every_schema_is_frozen_in_a_file():
    names = sorted(path.name for path in FROZEN.iterdir())
    assert names == sorted(f"{version}.sql" for version in range(1, len(MIGRATIONS) + 1))


def test_migrations_are_numbered_in_order():
    for version, migration in enumerate(MIGRATIONS, start=1):
        assert migration.__name__.startswith(f"m{version:03}_")


@pytest.mark.parametrize("version", range(len(MIGRATIONS) + 1))
def test_every_earlier_schema_becomes_the_newest(version: int):
    with closing(empty()) as old, closing(empty()) as new:
        migrate(old, MIGRATIONS[:version])
        assert old.execute("PRAGMA user_version").fetchone() == (version,)
        migrate(old)
        migrate(new)
        assert schema(old) == schema(new)
        assert old.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


def m999_next(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE run ADD COLUMN note TEXT")
    connection.execute("UPDATE run SET note = 'kept'")
    connection.execute("ALTER TABLE metrics ADD COLUMN fold INTEGER")


@pytest.fixture
def old_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with create(path, INFO) as run:
        ramp(run, range(70))
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, m999_next))
    return path


def test_an_older_file_is_read_without_being_touched(old_run: Path):
    before = old_run.read_bytes()
    with qprobe.open(old_run) as reader:
        assert reader.meta.schema == len(MIGRATIONS) + 1
        assert len(reader.series(*columns(10)[0])) == 70
        assert reader._connection.execute("SELECT note FROM run").fetchone() == ("kept",)
    assert old_run.read_bytes() == before
    assert [entry.name for entry in old_run.parent.iterdir()] == ["run.qprobe"]


def test_an_older_file_is_migrated_when_it_is_resumed(old_run: Path):
    with resume(old_run) as run:
        ramp(run, range(70, 75))
    with closing(sqlite3.connect(old_run)) as plain:
        assert plain.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
        assert plain.execute("SELECT note FROM run").fetchone() == ("kept",)
    with qprobe.open(old_run) as reader:
        assert len(reader.series(*columns(10)[0])) == 75


def test_a_migration_that_fails_changes_nothing():
    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half (x)")
        connection.execute("SELECT * FROM nowhere")

    with closing(empty()) as connection:
        migrate(connection)
        before = schema(connection)
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            migrate(connection, (*MIGRATIONS, broken))
        assert schema(connection) == before
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


def test_an_error_that_has_ended_the_transaction_is_the_one_that_is_told(tmp_path):
    def full(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")  # as SQLite does by itself where the disk is full
        raise sqlite3.OperationalError("database or disk is full")

    with (
        closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as connection,
        pytest.raises(sqlite3.OperationalError, match="disk is full"),
    ):
        migrate(connection, [full])
