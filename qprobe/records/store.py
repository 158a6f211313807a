"""Opens run files: checks that they are ours, sets SQLite up, and says in words what went wrong."""

import json
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path

from qprobe.errors import InputError, QprobeError
from qprobe.records import migrations
from qprobe.records.filesystem import network_type
from qprobe.records.schema import RunInfo, Status

#: "qpro" in ASCII, in bytes 68..71 of every run file; ``file`` and SQLite show it.
APPLICATION_ID = 0x7170726F

# 8 kB pages hold a chunk of 32 × 64 float32 in one or two; a log of 32 MB is folded into the file
# rarely enough that its fsync does not count, and often enough that the log stays small.
_PAGE_BYTES = 8192
_LOG_PAGES = 32 * 2**20 // _PAGE_BYTES
_MAGIC = b"SQLite format 3\x00"
_WAIT_S = 30.0

FileSystemCheck = Callable[[Path], str | None]


def create(path: Path, info: RunInfo) -> None:
    """Make a run file that is complete from the moment it has its name."""
    if path.exists():
        raise InputError(f"{path} exists already; choose another name, or resume that run.")
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    try:
        _draw_up(path, draft, info)
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)  # of a run that could not be made nothing stays


def _draw_up(path: Path, draft: Path, info: RunInfo) -> None:
    with explained(path, "creating"), closing(_connect(draft, "rwc")) as connection:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrations.migrate(connection)
        connection.execute(
            "INSERT INTO run VALUES (1, ?, ?, ?, NULL, ?, ?, ?, ?)",
            (
                uuid.uuid4().hex,
                time.time(),
                Status.RUNNING,
                _json(info.config, "config"),
                _json(info.environment, "environment"),
                info.recipe,
                info.source,
            ),
        )


def open_for_writing(path: Path) -> sqlite3.Connection:
    """A connection that may write: migrated, with a write-ahead log. The caller holds the lock."""
    check_file(path)
    with explained(path, "opening"):
        connection = _connect(path, "rw")
        try:
            check_schema(path, connection)
            migrations.migrate(connection)
            _keep_log(path, connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_PAGES * _PAGE_BYTES}")
        except BaseException:
            connection.close()
            raise
    return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. A file of an older schema is read through a private copy."""
    check_file(path)
    with explained(path, "opening"):
        connection = _connect_reader(path)
        try:
            if check_schema(path, connection) < len(migrations.MIGRATIONS):
                connection = _upgraded_copy(connection)
            connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
    return connection


def finish(connection: sqlite3.Connection) -> None:
    """Close a writer's connection and leave one plain file, which opens on read-only media too.

    While somebody reads, the file stays as it is and its log stays beside it: both are valid.
    """
    try:
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    except sqlite3.OperationalError as error:
        if _name(error) not in ("SQLITE_BUSY", "SQLITE_LOCKED"):
            raise
    finally:
        connection.close()


def check_location(path: Path, file_system: FileSystemCheck = network_type) -> None:
    """Raise where a run cannot be written safely."""
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a folder; create it, or choose another place.")
    kind = file_system(path)
    if kind is not None:
        raise InputError(
            f"{path} is on a network file system ({kind}), where SQLite's write-ahead log can "
            "corrupt a run; write to a local disk and copy the file when the run is finished."
        )


def check_file(path: Path) -> None:
    """Raise unless ``path`` is a whole SQLite file."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name one .qprobe file in it.")
    try:
        with path.open("rb") as file:
            header = file.read(100)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise InputError(f"there is no run at {path}; check the path.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check its rights.") from error
    if not size:
        raise InputError(f"{path} is empty; nothing was ever written to it.")
    if header[: len(_MAGIC)] != _MAGIC[: len(header)]:
        raise InputError(f"{path} is not a qprobe run: it does not start like a SQLite file.")
    # With a log present the file may be legitimately shorter than its header says.
    expected = max(100, _pages(header) * _page_bytes(header))
    if size < expected and not _has_log(path):
        raise InputError(
            f"{path} is truncated: it has {size:,} bytes and should have at least {expected:,}; "
            "copy it again from where it came."
        )


def check_schema(path: Path, connection: sqlite3.Connection) -> int:
    """The schema version of a file of ours that this program understands, or an error."""
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    if found != APPLICATION_ID:
        raise InputError(
            f"{path} is a SQLite file of another program (application id {found}); "
            "give a .qprobe file."
        )
    schema: int = connection.execute("PRAGMA user_version").fetchone()[0]
    known = len(migrations.MIGRATIONS)
    if schema > known:
        raise InputError(
            f"{path} has schema {schema} and was written by a newer qprobe; this one "
            f"({version('qprobe')}) reads up to {known}: upgrade it."
        )
    return schema


@contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turn an error of SQLite into a sentence that names the file and what to do next."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explain(path, doing, error) from error


def _explain(path: Path, doing: str, error: sqlite3.Error) -> QprobeError:
    name = _name(error)
    if name in ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"):
        return QprobeError(
            f"the disk is full, or a quota is used up, {doing} {path} ({error}); everything up to "
            "the last flush is safe: free some space and resume the run."
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ")):
        return InputError(
            f"{path} is damaged or truncated ({error}); copy it again from where it came, or save "
            "what can be read with `sqlite3 FILE .recover`."
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return QprobeError(
            f"{doing} {path} waited {_WAIT_S:.0f} s for another program that has locked it; "
            "close that program and try again."
        )
    return QprobeError(f"{doing} {path} failed: {error} ({name}); check the file and its folder.")


def _keep_log(path: Path, connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise InputError(
            f"the file system of {path} has no shared memory for SQLite's write-ahead log; write "
            "to a local disk."
        )


def _name(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


def _connect(path: Path, mode: str, *options: str) -> sqlite3.Connection:
    uri = path.resolve().as_uri() + "?" + "&".join([f"mode={mode}", *options])
    # Autocommit: transactions are ours. Threads take turns under a lock or a queue of ours.
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_WAIT_S
    )


def _connect_reader(path: Path) -> sqlite3.Connection:
    connection = _connect(path, "ro")
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        if not _name(error).startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise
        if _has_log(path):
            raise InputError(
                f"{path} was not closed and its folder is read-only, so its log cannot be read; "
                f"copy {path.name} and {path.name}-wal to a folder of yours and open the copy."
            ) from error
        # A log-mode file without a log: nobody writes it, and nobody can here.
        return _connect(path, "ro", "immutable=1")
    return connection


def _upgraded_copy(connection: sqlite3.Connection) -> sqlite3.Connection:
    copy = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    with closing(connection):
        connection.backup(copy)
    migrations.migrate(copy)
    return copy


def _has_log(path: Path) -> bool:
    log = path.with_name(path.name + "-wal")
    return log.exists() and log.stat().st_size > 0


def _page_bytes(header: bytes) -> int:
    size = int.from_bytes(header[16:18], "big")
    return 65536 if size == 1 else size


def _pages(header: bytes) -> int:
    return int.from_bytes(header[28:32], "big")


def _json(value: object, name: str) -> str:
    try:
        return json.dumps(value, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the {name} of a run cannot be written as JSON: {error}; use plain values."
        ) from error
