"""The same CNN with batch, layer and group norm: is it batch norm that makes it fragile?

The paper supposes so (its section 4.4); with the norm as the only difference, it can be asked.
"""

from pathlib import Path
from typing import Any

import grid
from cell import Cell
from normed_cnn import NORMS
from protocol import estimate_s, settings

NAME = "norms"

RECIPES = ("bf16", "nvfp4", "nvfp4-2d-rht-sr")
SEEDS = range(3)
_SIZES = {"cpu": "tiny", "gpu": "4m"}
_BATCH = "batch"


def cells(scale: str) -> list[Cell]:
    """One training each, called like ``cnn-tiny-layer-bf16-s0``; batch norm is in the grid."""
    size = _SIZES[scale]
    return [
        Cell(
            stage=NAME,
            key=f"cnn-{size}-{norm}-{recipe}-s{seed}",
            settings=_with_norm(settings(scale, "cnn", size, recipe, seed), norm),
            estimate_s=1.1 * estimate_s(scale, "cnn", size, recipe),
        )
        for norm in NORMS
        if norm != _BATCH
        for seed in SEEDS
        for recipe in RECIPES
    ]


def _with_norm(given: dict[str, Any], norm: str) -> dict[str, Any]:
    """As the grid trains a CNN, the optimizer included, which a foreign model has to be told."""
    config = dict(given["config"])
    config["arch"] = "normed_cnn:make"
    config["model"] = {**config.get("model", {}), "norm": norm}
    config |= {"optimizer": "adamax", "weight_decay": 0.0}
    config.setdefault("lr", 5e-4)
    return {**given, "config": config}


def measure(cell: Cell, folder: Path) -> dict[str, Any]:
    """The scores of the best weights on the test set."""
    return grid.measure(cell, folder)
