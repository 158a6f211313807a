"""Passes of a model: which one is under way, and in which thread."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

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


def is_replica(module: nn.Module) -> bool:
    """Whether ``module`` is one of the copies that ``nn.DataParallel`` makes for each pass."""
    return bool(getattr(module, "_is_replica", False))


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
        self._replicas = threading.local()
        self._warned = False
        #: Held while a gradient is handed over: backward has a thread for each device.
        self.handing = threading.RLock()

    def enter(self, *, recording: bool, replica: bool = False) -> bool:
        """The model, or a replica of it, is called; whether a pass begins that is followed."""
        if replica:
            self._leave_to(self._depth_of_replicas + 1)
            return False
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

    @property
    def _depth_of_replicas(self) -> int:
        """Calls of replicas that are under way in this thread."""
        depth: int = getattr(self._replicas, "depth", 0)
        return depth

    def _leave_to(self, depth: int) -> None:
        """Replicas share hooks, and are on other devices: none of their passes is followed."""
        self._replicas.depth = depth
        if not self._warned:
            self._warned = True
            warnings.warn(
                "the copies that nn.DataParallel makes of a watched model are not watched; use "
                "DistributedDataParallel, or one device.",
                stacklevel=2,
            )

    def leave(self) -> None:
        """The call that is under way here has ended."""
        if self._depth_of_replicas:
            self._leave_to(self._depth_of_replicas - 1)
        elif self._depth and self.here:
            self._depth -= 1

    @property
    def here(self) -> bool:
        """Whether what happens in this thread belongs to the latest pass."""
        quiet = getattr(_quiet, "on", False) or self._depth_of_replicas
        return self._thread == threading.get_ident() and not quiet

    @property
    def begun(self) -> bool:
        """Whether a pass of this thread is under way."""
        return bool(self._depth) and self.here

    def settle(self) -> None:
        """Steps are counted in this thread, and no pass is under way in it any more."""
        if self.begun:
            self._depth = 0
        self._home = threading.get_ident()
