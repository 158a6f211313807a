"""The unit of the study: one cell of one stage, and the interface that a stage implements."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from qprobe.errors import InputError

SCALES = ("cpu", "gpu")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement: what it is called, everything that decides its result, what it rests on.

    ``settings`` are plain values, as JSON gives them back. ``needs`` names the training cells
    whose checkpoints it reads, as ``stage/key``. ``estimate_s`` is in seconds of one CPU core
    (of the device at scale ``gpu``) and decides the order only.
    """

    stage: str
    key: str
    settings: Mapping[str, Any]
    needs: tuple[str, ...] = field(default=())
    estimate_s: float

    @property
    def name(self) -> str:
        """How others name it: the stage and the key."""
        return f"{self.stage}/{self.key}"


class Stage(Protocol):
    """A module of this folder; its file is named as it is."""

    NAME: str

    def cells(self, scale: str) -> list[Cell]:
        """Every cell at a scale, ``cpu`` or ``gpu``; none where the stage has nothing to do."""

    def measure(self, cell: Cell, folder: Path) -> dict[str, Any]:
        """The result of one cell, as JSON takes it; called in a worker with one thread.

        ``folder`` is the folder of the study's runs at this scale: the training of a cell lies
        in ``folder / cell.name`` and nowhere else.
        """


def stage(name: str) -> Stage:
    """The stage of a name."""
    return cast("Stage", import_module(name))


def enumerate_cells(names: Sequence[str], scale: str) -> dict[str, Cell]:
    """The cells of some stages by name; a name that is given twice is an error."""
    if scale not in SCALES:
        raise InputError(f"the scale is one of {', '.join(SCALES)}, got {scale!r}.")
    found: dict[str, Cell] = {}
    for cell in (cell for name in names for cell in stage(name).cells(scale)):
        if cell.name in found:
            raise InputError(f"two cells are called {cell.name}; give each a key of its own.")
        found[cell.name] = cell
    return found


def hashes(cells: Mapping[str, Cell]) -> dict[str, str]:
    """SHA-256 of every cell: its settings, and those of all it rests on.

    A cell that reads a checkpoint is another cell when the training is another training.
    """
    found: dict[str, str] = {}

    def of(name: str, asked: str) -> str:
        if name not in cells:
            raise InputError(f"{asked} needs {name}, which no stage has; known stages give it.")
        if name not in found:
            cell = cells[name]
            facts = [cell.name, dict(cell.settings), [of(need, name) for need in cell.needs]]
            text = json.dumps(facts, sort_keys=True, allow_nan=False)
            found[name] = hashlib.sha256(text.encode()).hexdigest()
        return found[name]

    for name in cells:
        of(name, name)
    return found


def closure(names: Iterable[str], cells: Mapping[str, Cell]) -> set[str]:
    """Some cells and everything they rest on."""
    reached: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += cells[name].needs
    return reached
