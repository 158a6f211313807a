"""Gradient noise in CNNs: numbers and tables from the measurements of stage ``gradient_noise``.

Numbers are means over seeds with t intervals, called ``gradient.PHASE-wWIDTH.RECIPE.QUANTITY``:

- ``cosine``, ``projection``, ``error``: of one batch's gradient, all quantized layers together.
- ``noise_ratio``: the error's energy over the variance of a mini-batch's gradient; ``bias_ratio``:
  the part of it that is the same for every batch (unbiased, so it may be below zero);
  ``accumulated_ratio``: the same ratio for the mean over all batches, as in a large batch.
- ``draw_squared_bias``, ``draw_variance``, ``draw_projection``: over draws of one batch.
- ``underflow``, ``saturation``: of the arriving gradients in wgrad.

``gradient.PHASE-wWIDTH.batch_cosine`` and ``.batch_noise`` are of two mini-batches in high
precision. ``gradient.PHASE.RECIPE.QUANTITY.slope`` is per doubling of the width, over seeds with
all widths; ``gradient.PHASE-wWIDTH.sr-over-nearest.QUANTITY`` is ``gradient-stochastic`` less
``gradient-nearest``, seed by seed, and ``gradient.PHASE-wWIDTH.forward-share`` the error energy
under ``nvfp4-fwd`` over that under ``nvfp4``: what is there before any gradient is rounded.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from number import Number, Stored, mean, present
from over_seeds import Table, ratio, slope, table

QUANTITIES = (
    *("cosine", "projection", "error", "noise_ratio", "bias_ratio", "accumulated_ratio"),
    *("draw_squared_bias", "draw_variance", "draw_projection", "underflow", "saturation"),
)
_SLOPES = ("projection", "error", "noise_ratio", "bias_ratio", "underflow", "draw_squared_bias")
_OF_BATCH = ("batch_cosine", "batch_noise")
PHASES = ("init", "early", "late")
#: The order of tables: controls at the ends, what is rounded between them.
_RECIPES = (
    *("bf16", "gradient-nearest", "gradient-stochastic", "nvfp4-fwd", "nvfp4", "nvfp4-sr"),
    *("nvfp4-2d-rht", "nvfp4-2d-rht-sr", "nvfp4 without tensor scale"),
    "nvfp4-sr without tensor scale",
)

Cells = Sequence[Mapping[str, Any]]


def numbers(stored: Stored) -> dict[str, Number]:
    """Every number that the top of this file lists."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in stored.get("gradient_noise", {}).values():
        if "phase" in one:
            groups[f"gradient.{one['phase']}-w{one['width']}"].append(one)
    found: dict[str, Number | None] = {}
    for title, cells in groups.items():
        for key in _OF_BATCH:
            found[f"{title}.{key}"] = mean([one[key] for one in cells])
        for recipe in cells[0]["recipes"]:
            for key in QUANTITIES:
                found[f"{title}.{recipe}.{key}"] = mean(list(_values(cells, recipe, key).values()))
        found |= _pairs(title, cells)
    return present({**found, **_slopes(groups)})


def _values(cells: Cells, recipe: str, key: str) -> dict[int, float]:
    """A quantity by seed, of the seeds that have it."""
    return {
        one["seed"]: one["recipes"][recipe][key]
        for one in cells
        if key in one["recipes"].get(recipe, {})
    }


def _pairs(title: str, cells: Cells) -> dict[str, Number | None]:
    found: dict[str, Number | None] = {}
    for key in ("projection", "error", "bias_ratio", "accumulated_ratio"):
        ours = _values(cells, "gradient-stochastic", key)
        theirs = _values(cells, "gradient-nearest", key)
        seeds = sorted(ours.keys() & theirs.keys())
        apart = [ours[seed] - theirs[seed] for seed in seeds]
        found[f"{title}.sr-over-nearest.{key}"] = mean(apart)
    forward, full = (_values(cells, recipe, "error") for recipe in ("nvfp4-fwd", "nvfp4"))
    found[f"{title}.forward-share"] = ratio(forward, full, "")
    return found


def _slopes(groups: Mapping[str, Cells]) -> dict[str, Number | None]:
    found: dict[str, Number | None] = {}
    for phase in PHASES:
        cells = [one for title, some in groups.items() for one in some if one["phase"] == phase]
        widths = {one["width"] for one in cells}
        recipes = cells[0]["recipes"] if cells else {}
        for recipe in recipes:
            for key in _SLOPES:
                curves: dict[int, dict[float, float]] = defaultdict(dict)
                for one in sorted(cells, key=lambda cell: cell["width"]):
                    if key in one["recipes"].get(recipe, {}):
                        at = math.log2(one["width"])
                        curves[one["seed"]][at] = one["recipes"][recipe][key]
                whole = [curve for curve in curves.values() if len(curve) == len(widths)]
                if len(widths) > 1 and whole:
                    found[f"gradient.{phase}.{recipe}.{key}.slope"] = slope(whole)
    return found


def tables(stored: Stored) -> list[Table]:
    """The noise of the gradient by width and phase, and how it changes with width."""
    found = numbers(stored)
    models = list(dict.fromkeys(name.split(".")[1] for name in found if "-w" in name))
    columns = {
        "projection": "projection",
        "error": "error energy",
        "noise_ratio": "of mini-batch noise",
        "bias_ratio": "bias, of mini-batch noise",
        "draw_squared_bias": "bias over draws",
        "draw_variance": "variance over draws",
        "underflow": "underflow",
    }
    each = [
        table(
            f"Gradients: {model}",
            "recipe",
            list(columns.values()),
            {
                name: [found.get(f"gradient.{model}.{name}.{key}") for key in columns]
                for name in _RECIPES
            },
        )
        for model in sorted(models, key=_order)
    ]
    return [*each, _slope_table(found)]


def _order(model: str) -> tuple[int, int]:
    phase, _, width = model.partition("-w")
    return PHASES.index(phase), int(width)


def _slope_table(found: Mapping[str, Number]) -> Table:
    rows = {
        f"{phase}, {name}": [found.get(f"gradient.{phase}.{name}.{key}.slope") for key in _SLOPES]
        for phase in PHASES
        for name in _RECIPES
    }
    some = {name: numbers for name, numbers in rows.items() if any(numbers)}
    return table("Per doubling of the width", "phase, recipe", _SLOPES, some)
