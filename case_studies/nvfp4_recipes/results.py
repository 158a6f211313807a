"""What was measured, as it is kept in git: one JSON file per stage, one line per cell.

Numbers are rounded to six significant digits, so that a file changes where a result does.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qprobe.errors import InputError

FOLDER = Path(__file__).with_name("results")
DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a cell gave, when it was made with ``hash``, and what it cost.

    ``machine`` is the key of the machine's facts in the file of the stage.
    """

    hash: str
    settings: Mapping[str, Any]
    cpu_s: float
    wall_s: float
    machine: str
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StageResults:
    """The results of one stage at one scale, by key, and the machines they were measured on."""

    results: Mapping[str, Result]
    machines: Mapping[str, Mapping[str, Any]]


def path_of(folder: Path, scale: str, stage: str) -> Path:
    """Where the results of a stage are."""
    return folder / scale / f"{stage}.json"


def load(folder: Path, scale: str, stage: str) -> StageResults:
    """What is stored of a stage; nothing where it never ran."""
    path = path_of(folder, scale, stage)
    if not path.is_file():
        return StageResults(results={}, machines={})
    try:
        stored = json.loads(path.read_text("utf-8"))
        found = {key: Result(**one) for key, one in stored["cells"].items()}
        return StageResults(results=found, machines=stored["machines"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no file of results ({error}); restore it with git, or delete it and "
            "measure again."
        ) from error


def save(folder: Path, scale: str, stage: str, found: StageResults) -> None:
    """Write the results of a stage in one piece: a reader sees the old file or the new one."""
    path = path_of(folder, scale, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    used = {one.machine for one in found.results.values()}
    machines = {key: facts for key, facts in found.machines.items() if key in used}
    cells = {key: vars(one) for key, one in found.results.items()}
    text = "\n".join(
        ["{", *_table("machines", machines), "},", *_table("cells", cells), "}", "}", ""]
    )
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _table(name: str, rows: Mapping[str, Any]) -> list[str]:
    """One line per row, in the order of the keys."""
    lines = [
        f"{json.dumps(key)}: {json.dumps(plain(rows[key]), sort_keys=True, allow_nan=False)}"
        for key in sorted(rows)
    ]
    return [f'"{name}": {{', *(f"{line}," for line in lines[:-1]), *lines[-1:]]


def plain(value: Any) -> Any:
    """As JSON keeps it: floats of six digits, what is not finite as text.

    >>> plain({"a": (0.123456789, 1e-9, float("nan")), "n": 3})
    {'a': [0.123457, 1e-09, 'nan'], 'n': 3}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    return value
