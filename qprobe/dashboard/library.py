"""Which runs there are: found in files and folders, read once, and again when they change."""

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from qprobe import records
from qprobe.errors import InputError, QprobeError
from qprobe.records import Finding, RunReader, Status
from qprobe.records.schema import Json
from qprobe.records.scores import scores

T = TypeVar("T")
#: What changes in a file that was written to: its own and its log's time and size.
Stamp = tuple[int, ...]

_SUFFIX = ".qprobe"
#: Answers kept for files that have not changed since.
_KEPT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the list of runs shows of one file; ``problem`` says why there is nothing to show."""

    name: str
    path: Path
    stamp: Stamp
    problem: str | None = None
    id: str = ""
    status: Status = Status.FAILED
    reason: str | None = None
    recipe: str | None = None
    source: str | None = None
    created_s: float = 0.0
    config: Mapping[str, Json]
    environment: Mapping[str, Json]
    scores: Mapping[str, Mapping[str, float]]
    findings: tuple[Finding, ...] = ()

    @property
    def changed_s(self) -> float:
        """When the file was last written to, in seconds since 1970."""
        return max(self.stamp[0], self.stamp[3]) / 1e9

    @property
    def is_training(self) -> bool:
        """Whether a training wrote it; the others are analyses."""
        return "hash" in self.config


class Library:
    """The runs below some paths. New, changed and vanished files are seen at every :meth:`runs`.

    Nothing is written. A file that cannot be read is a run with a problem, never an exception.
    Threads may share a library.
    """

    def __init__(self, paths: Sequence[Path], *, every_s: float = 1.0) -> None:
        if not paths:
            raise InputError("there is nothing to show; name run files or folders of them.")
        for path in paths:
            if not path.exists():
                raise InputError(f"there is nothing at {path}; name a run file or a folder.")
        self.paths = tuple(path.resolve() for path in paths)
        self._every_s = every_s
        self._looked_s = -every_s
        self._runs: dict[str, Run] = {}
        self._answers: dict[Hashable, object] = {}
        self._turn = threading.RLock()

    def runs(self, *, now: bool = False) -> list[Run]:
        """Every run by name, looked up at most once in ``every_s`` unless ``now``."""
        with self._turn:
            if now or time.monotonic() - self._looked_s >= self._every_s:
                self._look()
                self._looked_s = time.monotonic()
            return list(self._runs.values())

    def run(self, name: str) -> Run | None:
        """The run called ``name``; only what a look found can be asked for."""
        self.runs()
        return self._runs.get(name)

    def by_id(self, run: str) -> Run | None:
        """The training with this id."""
        return next((one for one in self.runs() if one.id == run), None)

    def analyses(self, run: Run) -> list[Run]:
        """The analyses whose source names this run."""
        if not run.id:
            return []
        return [
            one for one in self.runs() if one.source and run.id in one.source and one.id != run.id
        ]

    @contextmanager
    def reading(self, run: Run) -> Iterator[RunReader]:
        """The file of a run, open for reading."""
        with records.open(run.path) as reader:
            yield reader

    def answer(self, run: Run, read: Callable[..., T], *question: Hashable) -> T:
        """``read(reader, *question)``, remembered until the file of the run changes."""

        def said() -> T:
            with self.reading(run) as reader:
                return read(reader, *question)

        return self.remembered((run.path, stamp(run.path), read, *question), said)

    def remembered(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of ``compute``, kept for the ``key`` until many others were asked for."""
        with self._turn:
            if key in self._answers:
                found = self._answers.pop(key)
                self._answers[key] = found  # to the end: the least recently used goes first
                return cast("T", found)
        value = compute()
        with self._turn:
            self._answers[key] = value
            while len(self._answers) > _KEPT:
                del self._answers[next(iter(self._answers))]
        return value

    def _look(self) -> None:
        found: dict[str, Run] = {}
        for name, path in _named(self._files()):
            known = self._runs.get(name)
            mark = stamp(path)
            # A writer can die without touching its file, so a running run is always read again.
            settled = known is not None and known.status is not Status.RUNNING
            if known is not None and settled and (known.path, known.stamp) == (path, mark):
                found[name] = known
            else:
                found[name] = _read(name, path, mark)
        self._runs = dict(sorted(found.items()))

    def _files(self) -> list[Path]:
        files: list[Path] = []
        for path in self.paths:
            files.extend(_below(path) if path.is_dir() else [path])
        return list(dict.fromkeys(files))


def stamp(path: Path) -> Stamp:
    """Time, size and inode of a file, time and size of its log; zeros where there is none."""
    return (*_facts(path), *_facts(path.with_name(path.name + "-wal"))[:2])


def _facts(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _below(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.endswith(_SUFFIX) and not name.startswith("."):
                yield Path(where, name)


def _named(files: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Short names that tell the files apart: ``run.qprobe`` goes by its folder."""
    if not files:
        return
    own = [path.parent if path.name == f"run{_SUFFIX}" else path.with_suffix("") for path in files]
    root = Path(os.path.commonpath([path.parent for path in own]))
    taken: set[str] = set()
    for path, short in zip(files, own, strict=True):
        name = short.relative_to(root).as_posix()
        name = name if name not in taken else path.relative_to(root).as_posix()
        taken.add(name)
        yield name, path


def _read(name: str, path: Path, mark: Stamp) -> Run:
    try:
        with records.open(path) as reader:
            meta, metrics, findings = reader.meta, reader.metrics(), reader.findings()
    except QprobeError as error:
        return Run(
            name=name, path=path, stamp=mark, problem=str(error),
            config={}, environment={}, scores={},
        )  # fmt: skip
    return Run(
        name=name,
        path=path,
        stamp=mark,
        id=meta.run,
        status=meta.status,
        reason=meta.reason,
        recipe=meta.recipe,
        source=meta.source,
        created_s=meta.created_s,
        config=meta.config,
        environment=meta.environment,
        scores=scores(metrics),
        findings=tuple(findings),
    )
