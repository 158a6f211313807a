"""Writes windows from a thread of its own, so that a training step does not wait for the disk."""

import queue
import threading

from qprobe.records.commit import Committer
from qprobe.records.window import Window

#: Windows that may wait; the caller is held back when the disk is this far behind.
DEPTH = 4


class BackgroundCommitter:
    """Hands windows to another committer in a thread; its error appears at the next call.

    After an error nothing more is written: a later window without an earlier one would be a run
    with a hole in it.
    """

    def __init__(self, inner: Committer, depth: int = DEPTH) -> None:
        self._inner = inner
        self._queue: queue.Queue[Window | None] = queue.Queue(maxsize=depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="qprobe-writer", daemon=True)
        self._thread.start()

    def commit(self, window: Window) -> None:
        """Queue the window; waits only when the queue is full."""
        self._raise_error()
        self._queue.put(window)

    def wait(self) -> None:
        """Return when the queue is empty and everything in it is in the file."""
        self._queue.join()
        self._raise_error()

    def close(self) -> None:
        """Write what is queued and close the file, also after an error."""
        self._queue.put(None)
        self._thread.join()
        try:
            self._inner.close()
        finally:
            self._raise_error()

    def _work(self) -> None:
        while (window := self._queue.get()) is not None:
            try:
                if self._error is None:
                    self._inner.commit(window)
            except BaseException as error:  # noqa: BLE001 - kept whole and raised in the caller
                self._error = error
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
