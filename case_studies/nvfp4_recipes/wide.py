"""A wider CNN under rounding to nearest and stochastic rounding: does the loss grow with width?"""

from pathlib import Path
from typing import Any

import grid
from cell import Cell
from protocol import estimate_s, settings

NAME = "wide"

RECIPES = ("bf16", "nvfp4", "nvfp4-sr")
SEEDS = range(3)


def cells(scale: str) -> list[Cell]:
    """One training each; at scale ``gpu`` the grid has this size anyway."""
    if scale == "gpu":
        return []
    return [
        Cell(
            stage=NAME,
            key=f"cnn-500k-{recipe}-s{seed}",
            settings=settings(scale, "cnn", "500k", recipe, seed),
            estimate_s=estimate_s(scale, "cnn", "500k", recipe),
        )
        for seed in SEEDS
        for recipe in RECIPES
    ]


def measure(cell: Cell, folder: Path) -> dict[str, Any]:
    """The scores of the best weights on the test set."""
    return grid.measure(cell, folder)
