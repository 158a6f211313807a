"""Workers as tasks of a Ray cluster, or of a Ray that is started on this machine.

A node that sees the sweep's folder, on a disk that a run can be written to, trains in it, and a
killed cell goes on from its checkpoint. Any other node trains in a folder of its own, gets what is
there already and sends everything back at the end; a cell that is killed there starts over.
The driver holds the cell's lock for as long as the task is under way.
"""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from qprobe.engine.sweep.attend import Ended, Ending, attempt, take
from qprobe.engine.sweep.cell import PLAN_FILE, RUN_FILE, Cell, RunCell
from qprobe.engine.sweep.processes import one_thread_only, pickled
from qprobe.errors import InputError, MissingExtraError
from qprobe.records.filesystem import network_type
from qprobe.records.lock import WriterLock

Files = dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class RayCluster:
    """Cells as Ray tasks of one CPU each; needs the extra ``scale``.

    ``address`` is that of a cluster, where qprobe is installed on every node, or ``"local"`` for
    one that lives as long as the sweep. ``workers`` caps the cells under way at once.
    """

    address: str = "local"
    workers: int = 2

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"a sweep needs at least 1 worker, got {self.workers}.")

    @contextmanager
    def open(self, run_cell: RunCell) -> Iterator["RayExecutor"]:
        """A connection to the cluster."""
        payload = pickled(run_cell)
        ray = _ray()
        # A Ray that we start reports to nobody, unless its user has said otherwise.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet = {"log_to_driver": False, "logging_level": "warning", "ignore_reinit_error": False}
        try:
            if self.address == "local":
                ray.init(address="local", num_cpus=self.workers, include_dashboard=False, **quiet)
            else:
                ray.init(address=self.address, **quiet)
        except (ConnectionError, ValueError) as error:
            raise InputError(
                f"there is no Ray cluster at {self.address}: {error}; give the address that "
                "`ray start` printed, or 'local'."
            ) from None
        executor = RayExecutor(ray, payload, self.workers)
        try:
            yield executor
        finally:
            executor.kill()
            ray.shutdown()


def _ray() -> ModuleType:
    try:
        import ray
    except ImportError:
        raise MissingExtraError(
            "a sweep on a cluster needs Ray, which is not installed; run "
            "`pip install 'qprobe[scale]'`, or leave --ray out for local processes."
        ) from None
    module: ModuleType = ray
    return module


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    cell: Cell
    lock: WriterLock


class RayExecutor:
    """Tasks under way on a cluster; get it from :class:`RayCluster`."""

    def __init__(self, ray: ModuleType, payload: bytes, slots: int) -> None:
        self.slots = slots
        self._ray = ray
        # Ray would retry by itself where the driver could not see it; the sweep does.
        self._remote = ray.remote(num_cpus=1, max_retries=0)(train_on_node)
        self._payload = ray.put(payload)
        self._tasks: dict[Any, _Task] = {}
        self._refused: list[Ended] = []

    def submit(self, cell: Cell) -> None:
        lock = take(cell)
        if lock is None:
            self._refused.append(Ended(hash=cell.hash, ending=Ending.BUSY))
            return
        mark = uuid.uuid4().hex
        cell.folder.joinpath(_mark_file(mark)).touch()
        task = self._remote.remote(cell, mark, self._payload, files_of(cell.folder))
        self._tasks[task] = _Task(cell=cell, lock=lock)

    def wait(self, timeout_s: float) -> list[Ended]:
        refused, self._refused = self._refused, []
        if refused or not self._tasks:
            return refused
        done, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=timeout_s)
        return [self._collect(task) for task in done]

    def interrupt(self) -> None:
        for task in self._tasks:
            self._ray.cancel(task, force=False)

    def kill(self) -> None:
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        for known in self._tasks.values():
            self._let_go(known)
        self._tasks.clear()

    def _collect(self, task: Any) -> Ended:
        known = self._tasks.pop(task)
        errors = self._ray.exceptions
        try:
            ended, files = self._ray.get(task)
            if files:
                bring_back(known.cell.folder, files)
        except errors.TaskCancelledError:
            ended = Ended(hash=known.cell.hash, ending=Ending.INTERRUPTED)
        except errors.RayTaskError as error:  # not of run_cell, whose errors are reported
            reason = f"{type(error.cause).__name__} on a node: {error.cause}"
            ended = Ended(hash=known.cell.hash, ending=Ending.FAILED, reason=reason)
        except errors.RayError as error:  # the worker or its node is gone
            first = str(error).strip().partition("\n")[0]
            reason = f"its worker was lost ({type(error).__name__}: {first})"
            ended = Ended(hash=known.cell.hash, ending=Ending.LOST, reason=reason)
        finally:
            self._let_go(known)
        found: Ended = ended
        return found

    @staticmethod
    def _let_go(task: _Task) -> None:
        for mark in task.cell.folder.glob(_mark_file("*")):
            mark.unlink(missing_ok=True)
        task.lock.release()


def train_on_node(cell: Cell, mark: str, payload: bytes, files: Files) -> tuple[Ended, Files]:
    """One cell on a node: in its folder where the node has it, else in one of the node's own."""
    run_cell = one_thread_only(payload)
    if (cell.folder / _mark_file(mark)).exists() and network_type(cell.folder) is None:
        return attempt(cell, run_cell), {}
    with tempfile.TemporaryDirectory(prefix="qprobe-cell-") as scratch:
        here = replace(cell, folder=Path(scratch, cell.name))
        here.folder.mkdir()
        for name, data in files.items():
            _put(here.folder / name, data)
        ended = attempt(here, run_cell)
        return ended, files_of(here.folder)


def files_of(folder: Path) -> Files:
    """What a cell's folder holds, as it travels between nodes; marks and the plan stay."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.name != PLAN_FILE
    }


def bring_back(folder: Path, files: Files) -> None:
    """Put what a node sent into the cell's folder, in place of what was there.

    What the node no longer has goes first, since the old log of a run would be taken for one of the
    new file; the run file, which says that the cell is finished, comes last.
    """
    for name in files_of(folder).keys() - files.keys():
        (folder / name).unlink(missing_ok=True)
    for name in sorted(files, key=lambda name: name == RUN_FILE):
        _put(folder / name, files[name])


def _put(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    draft.write_bytes(data)
    draft.replace(path)


def _mark_file(mark: str) -> str:
    return f".driver-{mark}"
