"""One writer per run: a lock that the kernel drops when its process dies.

The lock is a ``flock`` on a small file beside the run, so none is ever stale: what a killed writer
leaves is an unlocked file, which the next writer takes over. The file's text only names the holder.
"""

import fcntl
import json
import os
import socket
import time
import weakref
from functools import cache
from pathlib import Path

from qprobe.errors import InputError

# A reader that asks whether a run is being written holds the lock for microseconds; a writer that
# meets one tries again.
_TRIES = 20
_PAUSE_S = 0.01

_held: "weakref.WeakSet[WriterLock]" = weakref.WeakSet()


def lock_path(run: Path) -> Path:
    """Where the lock of a run is."""
    return run.with_name(run.name + ".lock")


class WriterLock:
    """The right to write one run, held until :meth:`release` or until the process ends."""

    def __init__(self, run: Path) -> None:
        self._path = lock_path(run)
        self._file = self._acquire(run)
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text.encode(), 0)
        _watch_forks()
        _held.add(self)

    def _acquire(self, run: Path) -> int:
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE_S)
            file = _opened(self._path)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The former holder may have deleted the file between our open and our lock.
                if os.path.samestat(os.fstat(file), os.stat(self._path)):
                    return file
            except (BlockingIOError, FileNotFoundError):
                pass
            os.close(file)
        raise _being_written(run)

    def release(self) -> None:
        """Let others write."""
        if self._file >= 0:
            self._path.unlink(missing_ok=True)
            self.abandon()

    def abandon(self) -> None:
        """Close this process's handle only; a lock that a parent process holds stays held."""
        file, self._file = self._file, -1
        _held.discard(self)
        os.close(file)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(
            f"a run cannot be written in {path.parent}: {error.strerror}; choose a folder that can "
            "be written to and has room."
        ) from error


def is_written(run: Path) -> bool:
    """Whether a living process is writing the run."""
    try:
        file = os.open(lock_path(run), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def check_unwritten(run: Path) -> None:
    """Refuse a run that a living process is writing."""
    if is_written(run):
        raise _being_written(run)


def _being_written(run: Path) -> InputError:
    return InputError(
        f"{run} is being written by {_holder(lock_path(run))}; stop that process, or choose "
        "another file."
    )


@cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    # A forked child shares its parent's lock and would keep it after the parent's death.
    for lock in list(_held):
        lock.abandon()


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"
