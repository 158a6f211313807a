"""What is in a folder of runs: computed from the run files, remembered in ``index.json``.

The run files are the truth. The index only saves opening the ones that cannot have changed, so it
may be deleted at any time, and several processes may write it at once.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from qprobe import records
from qprobe.engine.sweep.cell import ERROR_FILE, PLAN_FILE, RUN_FILE, write_atomically
from qprobe.errors import InputError, QprobeError
from qprobe.records.schema import Json
from qprobe.records.scores import scores

INDEX_FILE = "index.json"
_VERSION = 1


class Standing(StrEnum):
    """Where a training stands, as its folder tells."""

    PLANNED = "planned"
    """A sweep named it, and there is no run yet."""
    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One training. ``path`` is its run file, or the folder of one that has none.

    ``scores`` are those of :func:`qprobe.records.scores.scores`.
    """

    path: Path
    standing: Standing
    reason: str | None
    hash: str | None
    config: Mapping[str, Json]
    scores: Mapping[str, Mapping[str, float]]


def index(folder: Path) -> list[Entry]:
    """Every training below ``folder``, by path: those that ran and those a sweep has planned.

    Run files that are no trainings (analyses have no configuration hash) are none of its concern.
    """
    root = folder.resolve()
    if root.is_file():
        raise InputError(f"{folder} is a file; name the folder that holds the runs.")
    if not root.is_dir():
        raise InputError(f"there is no folder {folder}; name the folder of a sweep.")
    remembered = _remembered(root / INDEX_FILE)
    entries, stamps = [], {}
    for path in _places(root):
        relative = str(path.relative_to(root))
        stamp = _stamp(path)
        known = remembered.get(relative)
        if known is not None and stamp is not None and known["stamp"] == stamp:
            entry: Entry | None = _entry(root, known)
        else:
            entry = _read_run(path) if path.is_file() else _read_plan(path)
        if entry is not None:
            entries.append(entry)
            if stamp is not None and entry.standing is Standing.FINISHED:
                stamps[relative] = stamp
    _remember(root, entries, stamps)
    return entries


def _places(root: Path) -> Iterator[Path]:
    """Run files, and folders that have only a plan."""
    for where, folders, files in os.walk(root):
        folders.sort()
        runs = sorted(name for name in files if name.endswith(".qprobe"))
        if PLAN_FILE in files and RUN_FILE not in runs:
            yield Path(where)
        yield from (Path(where, name) for name in runs)


def _stamp(path: Path) -> list[int] | None:
    """What changes when a run that is closed is written again, from its first moment on."""
    if not path.is_file():
        return None
    found = path.stat()
    return [found.st_mtime_ns, found.st_size, found.st_ino]


def _read_run(path: Path) -> Entry | None:
    try:
        with records.open(path) as reader:
            meta, metrics = reader.meta, reader.metrics()
    except QprobeError as error:
        return _without_scores(path, Standing.UNREADABLE, str(error), {})
    if "hash" not in meta.config:
        return None
    return Entry(
        path=path,
        standing=Standing(meta.status),
        reason=meta.reason,
        hash=str(meta.config["hash"]),
        config={name: value for name, value in meta.config.items() if name != "hash"},
        scores=scores(metrics),
    )


def _read_plan(folder: Path) -> Entry:
    try:
        plan = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
        known = {"hash": str(plan["hash"]), "config": dict(plan["config"])}
    except (OSError, ValueError, TypeError, KeyError) as error:
        said = f"{folder / PLAN_FILE} cannot be read: {error}"
        return _without_scores(folder, Standing.UNREADABLE, said, {})
    failure = folder / ERROR_FILE
    if failure.exists():
        said = failure.read_text(encoding="utf-8").partition("\n")[0]
        return _without_scores(folder, Standing.FAILED, said, known)
    return _without_scores(folder, Standing.PLANNED, None, known)


def _without_scores(
    path: Path, standing: Standing, reason: str | None, known: Mapping[str, Any]
) -> Entry:
    return Entry(
        path=path,
        standing=standing,
        reason=reason,
        hash=known.get("hash"),
        config=known.get("config", {}),
        scores={"test": {}, "validation": {}},
    )


def _remembered(path: Path) -> dict[str, dict[str, Any]]:
    """What an earlier call knew; nothing where the file is not one of ours or not of this kind."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["version"] != _VERSION:
            return {}
        return {
            str(one["path"]): one for one in found["trainings"] if one["stamp"] and one["config"]
        }
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _remember(root: Path, entries: list[Entry], stamps: Mapping[str, list[int]]) -> None:
    rows = []
    for entry in entries:
        relative = str(entry.path.relative_to(root))
        scores = {
            split: {name: _portable(value) for name, value in values.items()}
            for split, values in entry.scores.items()
        }
        changed = {"path": relative, "scores": scores, "stamp": stamps.get(relative)}
        rows.append(asdict(entry) | changed)
    text = json.dumps({"version": _VERSION, "trainings": rows}, indent=1, allow_nan=False)
    try:
        write_atomically(root / INDEX_FILE, text)
    except OSError:
        return  # a folder that cannot be written is read without a memory


def _entry(root: Path, known: Mapping[str, Any]) -> Entry:
    return Entry(
        path=root / known["path"],
        standing=Standing(known["standing"]),
        reason=known["reason"],
        hash=known["hash"],
        config=known["config"],
        scores={
            split: {name: float(value) for name, value in values.items()}
            for split, values in known["scores"].items()
        },
    )


def _portable(value: float) -> float | str:
    """JSON has no NaN and no infinity; ``float`` reads their names back."""
    return value if math.isfinite(value) else str(value)
