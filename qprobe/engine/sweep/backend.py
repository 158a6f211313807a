"""Where cells are run: what the sweep needs of local processes, a cluster, or anything else."""

from contextlib import AbstractContextManager
from typing import Protocol

from qprobe.engine.sweep.attend import Ended
from qprobe.engine.sweep.cell import Cell, RunCell


class Executor(Protocol):
    """Workers that are up."""

    slots: int
    """How many cells may be under way at once."""

    def submit(self, cell: Cell) -> None:
        """Start a cell; at most ``slots`` are under way."""

    def wait(self, timeout_s: float) -> list[Ended]:
        """The attempts that ended; a worker that died has *lost* its cell. May be empty."""

    def interrupt(self) -> None:
        """Ask every cell under way to finish its step, save and end; its end is still reported."""

    def kill(self) -> None:
        """End every worker at once."""


class Backend(Protocol):
    """A way to get workers."""

    def open(self, run_cell: RunCell) -> AbstractContextManager[Executor]:
        """Workers that call ``run_cell``; leaving the context ends them."""
