"""Patient-level cross-validation: is a difference one of recipes or of one split of the patients?

Every patient is tested in exactly one fold.
"""

from pathlib import Path
from typing import Any

import grid
from cell import Cell
from protocol import estimate_s, settings

NAME = "folds"

RECIPES = ("bf16", "nvfp4", "nvfp4-2d-rht-sr")
FOLDS = 5
_SIZES = {"cpu": "tiny", "gpu": "4m"}


def cells(scale: str) -> list[Cell]:
    """One training each, called like ``swin-tiny-bf16-f0``; all start from the same weights."""
    size = _SIZES[scale]
    return [
        Cell(
            stage=NAME,
            key=f"{arch}-{size}-{recipe}-f{fold}",
            settings=_in_fold(settings(scale, arch, size, recipe, seed=0), fold),
            estimate_s=estimate_s(scale, arch, size, recipe),
        )
        for arch in ("swin", "cnn")
        for fold in range(FOLDS)
        for recipe in RECIPES
    ]


def _in_fold(given: dict[str, Any], fold: int) -> dict[str, Any]:
    return {**given, "config": {**given["config"], "fold": fold, "folds": FOLDS}}


def measure(cell: Cell, folder: Path) -> dict[str, Any]:
    """The scores of the best weights on the patients of the fold."""
    return grid.measure(cell, folder)
