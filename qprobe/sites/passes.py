"""Passes of a model: which one is under way, and in which thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_quiet = threading.local()


@contextmanager
def unseen() -> Iterator[None]:
    """Passes in this thread are nobody's meanwhile: those that look for sites."""
    before = getattr(_quiet, "on", False)
    _quiet.on = True
    try:
        yield
    finally:
        _quiet.on = before


class Passes:
    """Tells outermost calls of a model from calls inside them, and from those of other threads.

    While a pass is under way in one thread, passes of others are not followed, and passes that
    record no gradients only in the thread that trains: the one that has called :meth:`settle`.

    >>> passes = Passes()
    >>> passes.enter(recording=True), passes.enter(recording=True)  # the model calls itself
    (True, False)
    >>> passes.outermost, passes.leave(), passes.outermost
    (False, None, True)
    """

    def __init__(self) -> None:
        self._home = self._thread = threading.get_ident()
        self._depth = 0
        self._lock = threading.Lock()
        #: Held while a gradient is handed over: backward has a thread for each device.
        self.handing = threading.RLock()

    def enter(self, *, recording: bool) -> bool:
        """The model is called; whether a pass begins that is followed."""
        thread = threading.get_ident()
        with self._lock:
            if getattr(_quiet, "on", False) or (self._depth and thread != self._thread):
                return False
            if not recording and thread != self._home:
                return False
            self._thread = thread
            self._depth += 1
            return self._depth == 1

    @property
    def outermost(self) -> bool:
        """Whether the call that is under way here is a followed pass, and not inside another."""
        return self._depth == 1 and self.here

    def leave(self) -> None:
        """The call that is under way here has ended."""
        if self._depth and self.here:
            self._depth -= 1

    @property
    def here(self) -> bool:
        """Whether what happens in this thread belongs to the latest pass."""
        return self._thread == threading.get_ident() and not getattr(_quiet, "on", False)

    @property
    def begun(self) -> bool:
        """Whether a pass of this thread is under way."""
        return bool(self._depth) and self.here

    def settle(self) -> None:
        """Steps are counted in this thread, and no pass is under way in it any more."""
        if self.begun:
            self._depth = 0
        self._home = threading.get_ident()
