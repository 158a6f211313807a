"""From a base configuration and lists of values to the cells of a sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import product
from typing import Any

from qprobe.engine.config import TrainConfig
from qprobe.errors import InputError

#: The table of a sweep file that holds the lists.
TABLE = "sweep"

# What varies fastest comes last: a sweep that is stopped early has whole pairs of recipes.
_LAST = ("seed", "fold", "recipe")


def grid(base: TrainConfig, axes: Mapping[str, Sequence[Any]]) -> list[TrainConfig]:
    """Every combination of the values in ``axes``, everything else as in ``base``.

    The order does not depend on the order of the axes: recipes vary fastest, then folds, then
    seeds. Two combinations that are the same training (equal hash) are one cell. Cells that differ
    only in the recipe have the same seed, hence the same initial weights and order of the data.
    """
    named = [field.name for field in fields(TrainConfig)]
    for name, values in axes.items():
        if name not in named:
            raise InputError(
                f"a sweep cannot vary {name!r}; a training has the settings {', '.join(named)}."
            )
        _check_values(name, values)
    order = sorted(
        axes, key=lambda name: (name in _LAST and _LAST.index(name) + 1, named.index(name))
    )
    given = base.as_json()
    cells = (
        TrainConfig.of(given | dict(zip(order, values, strict=True)))
        for values in product(*(axes[name] for name in order))
    )
    return list({cell.hash: cell for cell in cells}.values())


def split_axes(given: Mapping[str, Any], source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and axes of a sweep file: settings at the top, lists in the table ``[sweep]``.

    >>> split_axes({"epochs": 5, "sweep": {"recipe": ["bf16", "nvfp4"]}}, "my.toml")
    ({'epochs': 5}, {'recipe': ['bf16', 'nvfp4']})
    """
    settings = dict(given)
    axes = settings.pop(TABLE, {})
    if not isinstance(axes, Mapping):
        raise InputError(f"{source} has {TABLE} = {axes!r}; make it a table of lists, [{TABLE}].")
    both = sorted(settings.keys() & axes.keys())
    if both:
        raise InputError(
            f"{source} sets {both[0]!r} both at the top and in [{TABLE}]; keep one of them."
        )
    return settings, dict(axes)


def _check_values(name: str, values: object) -> None:
    if not isinstance(values, list | tuple | range):
        raise InputError(
            f"{name} of a sweep is a list of values, got {values!r}; write [{values!r}]."
        )
    if not values:
        raise InputError(f"{name} of a sweep is an empty list; give it a value or leave it out.")
