"""The run file of an analysis: a new one, or an interrupted one that is gone on with."""

import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from qprobe import __version__, native, records
from qprobe.errors import InputError
from qprobe.records import Record, RunInfo, RunWriter, Status
from qprobe.records.schema import Json

_BESIDE = ("", "-wal", "-shm", ".lock")


def info(config: Mapping[str, Json], recipe: str | None, source: str | None) -> RunInfo:
    """What an analysis says of itself."""
    environment: dict[str, Json] = {
        "qprobe": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "kernels": native.describe(),
        "threads": torch.get_num_threads(),
    }
    return RunInfo(config=config, environment=environment, recipe=recipe, source=source)


def check_free(path: Path, about: RunInfo, *, overwrite: bool) -> None:
    """Refuse a place where something else is, before anything is measured."""
    if not path.exists():
        if not path.absolute().parent.is_dir():
            raise InputError(f"there is no folder {path.parent} for {path.name}; make it first.")
        return
    if overwrite:
        with records.open(path):  # what is no run file is refused by name, and stays
            return
    if not _goes_on(path, about):
        raise InputError(f"{path} exists already; give --overwrite, or another place with --out.")


def writer(path: Path, about: RunInfo, *, overwrite: bool) -> tuple[RunWriter, list[Record]]:
    """The writer of the analysis, and what its file holds already."""
    if path.exists() and overwrite:
        _remove(path)
    if not path.exists():
        return records.create(path, about), []
    with records.open(path) as run:
        known = list(run.records())
    return records.resume(path), known


def _goes_on(path: Path, about: RunInfo) -> bool:
    """Whether ``path`` is this very analysis, interrupted."""
    with records.open(path) as run:
        meta = run.meta
    same = (dict(meta.config), meta.source) == (dict(about.config), about.source)
    return same and meta.status not in (Status.FINISHED, Status.RUNNING)


def _remove(path: Path) -> None:
    for ending in _BESIDE:
        path.with_name(path.name + ending).unlink(missing_ok=True)
