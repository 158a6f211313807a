"""Architectures × recipes × paired seeds: what a recipe does to the score of a model.

All recipes of one architecture and seed start from the same weights and see the same batches.
"""

from pathlib import Path
from typing import Any

from cell import Cell
from protocol import ARCHITECTURES, RECIPES, estimate_s, settings
from training import trained

NAME = "grid"

_SIZES = {"cpu": ("tiny",), "gpu": ("500k", "4m")}
SEEDS = range(5)


def cells(scale: str) -> list[Cell]:
    """One training each, called like ``cnn-tiny-bf16-s0``."""
    return [
        Cell(
            stage=NAME,
            key=f"{arch}-{size}-{recipe}-s{seed}",
            settings=settings(scale, arch, size, recipe, seed),
            estimate_s=estimate_s(scale, arch, size, recipe),
        )
        for size in _SIZES[scale]
        for arch in ARCHITECTURES
        for seed in SEEDS
        for recipe in RECIPES
    ]


def measure(cell: Cell, folder: Path) -> dict[str, Any]:
    """The scores of the best weights on the test set."""
    result = trained(cell.settings, folder / cell.name)
    return {"test": dict(result.test), "steps": result.steps, "best_step": result.best_step}
