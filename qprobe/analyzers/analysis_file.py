"""The run file of an analysis: a new one, or an interrupted one that is gone on with."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from qprobe import records
from qprobe.analyzers.analysis import Inputs, Request
from qprobe.analyzers.wording import parted
from qprobe.errors import InputError
from qprobe.records import Meta, Record, RunInfo, RunWriter, Status
from qprobe.records.lock import check_unwritten
from qprobe.records.software import software

if TYPE_CHECKING:
    from qprobe.records.schema import Json

_BESIDE = ("", "-wal", "-shm", ".lock")


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What the file and the report call what is analyzed."""

    title: str
    recipe: str | None = None
    layers: str | None = None
    #: The SHA-256 of the checkpoint and the id of the run that trained it, where there are any.
    source: str | None = None


def info(label: Label, inputs: Inputs, request: Request) -> RunInfo:
    """What an analysis says of itself; two that say the same are one."""
    subject = inputs.subject
    config: dict[str, Json] = {
        "kind": "analysis",
        "title": label.title,
        "recipe": label.recipe,
        "layers": label.layers,
        "score": None if subject is None else subject.score.name,
        "depth": str(request.depth),
        "only": list(request.only),
        "skip": list(request.skip),
        "verify": request.verify,
        "steps": request.steps,
    }
    environment: dict[str, Json] = {**software(), "threads": torch.get_num_threads()}
    return RunInfo(config=config, environment=environment, recipe=label.recipe, source=label.source)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an analysis is written."""

    file: Path
    overwrite: bool = False

    def check(self, about: RunInfo) -> None:
        """Refuse a place where something else is, before anything is measured."""
        file = self.file
        if not file.exists():
            if not file.absolute().parent.is_dir():
                raise InputError(
                    f"there is no folder {file.parent} for {file.name}; make it first."
                )
            self._check_writable()
            return
        check_unwritten(file)  # replaced under its writer, it would hold what the other one says
        if self.overwrite:
            with records.open(file):  # what is no run file is refused by name, and stays
                return
        if self.holds(about):
            return
        if not _goes_on(file, about):
            raise InputError(
                f"{file} exists already{_unlike(file, about)}; give --overwrite, or another place "
                "with --out."
            )

    def _check_writable(self) -> None:
        """Weights often lie where nobody may write."""
        folder = self.file.absolute().parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"{folder} cannot be written to; give another place with --out.")

    def holds(self, about: RunInfo) -> bool:
        """Whether this very analysis of the same weights is there, finished."""
        if self.overwrite or about.source is None or not self.file.exists():
            return False
        with records.open(self.file) as run:
            meta = run.meta
        return _same(meta, about) and meta.status is Status.FINISHED

    def writer(self, about: RunInfo) -> tuple[RunWriter, list[Record]]:
        """The writer of the analysis, and what its file holds already."""
        if self.file.exists() and self.overwrite:
            _remove(self.file)
        if not self.file.exists():
            return records.create(self.file, about), []
        with records.open(self.file) as run:
            known = list(run.records())
        return records.resume(self.file), known


def _goes_on(path: Path, about: RunInfo) -> bool:
    """Whether ``path`` is this very analysis, interrupted."""
    with records.open(path) as run:
        meta = run.meta
    return _same(meta, about) and meta.status not in (Status.FINISHED, Status.RUNNING)


def _unlike(path: Path, about: RunInfo) -> str:
    """In what the analysis at ``path`` is another one, in words; empty where it is not."""
    with records.open(path) as run:
        meta = run.meta
    if meta.config.get("kind") != "analysis":
        return " and is no analysis"
    differs = parted(meta.config, about.config, about.config)
    if meta.source != about.source:
        differs += f"{'; ' if differs else ''}of other weights"
    return f" and is another analysis ({differs})" if differs else ""


def _same(meta: Meta, about: RunInfo) -> bool:
    return (dict(meta.config), meta.source) == (dict(about.config), about.source)


def _remove(path: Path) -> None:
    for ending in _BESIDE:
        path.with_name(path.name + ending).unlink(missing_ok=True)
