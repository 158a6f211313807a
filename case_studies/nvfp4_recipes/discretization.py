"""Is attention discretized, and by what: numbers and tables from the looks of stage ``attention``.

Numbers are means over paired seeds with t intervals:

- ``attention.START.RECIPE.QUANTITY``: ``post-hoc`` at weights trained in bf16, ``trained`` at
  weights trained with the recipe. Local to a layer, mean over layers: ``snr_db``, ``error_nats``,
  ``total_variation``, ``entropy_change_nats``, ``levels_ratio``. Of the whole model against the
  same weights in high precision: ``prediction_levels_ratio``, ``distinct_ratio``,
  ``largest_step_change``, ``auprc_change`` and ``auprc_change-of-family`` (at a level that holds
  for all seven recipes together).
- ``attention.post-hoc.rotation-over-nvfp4.QUANTITY``: ``nvfp4-fwd-rht`` less ``nvfp4``.
- ``attention.slope.PATH.RECIPE.QUANTITY``: per doubling of the head dimension, at weights trained
  with ``bf16`` or ``nvfp4``. An SNR proportional to the head dimension rises by 3.01 dB.
- ``attention.stress.KIND-STRENGTH.RECIPE.QUANTITY``: under a planted defect, at weights trained in
  bf16. Strength 1 (an offset: 0) is the model as it is.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attended import PATHS
from number import Number, Stored, mean, present
from over_seeds import Table, slope, table
from protocol import QUANTIZED, RECIPES

#: Chance of an error in a family of seven recipes as in one number.
_FAMILY = 1 - 0.05 / len(QUANTIZED)
LOCAL = {
    "snr_db": " dB",
    "error_nats": " nats",
    "total_variation": "",
    "entropy_change_nats": " nats",
    "levels_ratio": "",
}
OF_MODEL = ("prediction_levels_ratio", "distinct_ratio", "largest_step_change", "auprc_change")
#: Where each path is interesting: what recipes do, and what the paper argues with.
_STRESSED_PATH = {"key-offset": "products"}

Looks = Sequence[Mapping[str, Any]]


def numbers(stored: Stored) -> dict[str, Number]:
    """Every number that the top of this file lists."""
    cells = [one for one in stored.get("attention", {}).values() if "head_dim" in one]
    found: dict[str, Number | None] = {}
    for title, looks in _natural(cells):
        found |= _of_looks(title, looks, "projection")
        changes = [of_model(one)["auprc_change"] for one in looks]
        found[f"{title}.auprc_change-of-family"] = mean(changes, " AUPRC", _FAMILY)
    for title, looks in _stressed(cells):
        kind = title.split(".")[2].rpartition("-")[0]
        found |= _of_looks(title, looks, _STRESSED_PATH.get(kind, "projection"))
    found |= _of_rotation(cells)
    return present({**found, **_slopes(cells)})


def _natural(cells: Looks) -> Iterator[tuple[str, Looks]]:
    """Looks over seeds at head dimension 16, as trained and after the fact."""
    here = [one for one in cells if one["head_dim"] == 16]
    for name in RECIPES:
        trained = [one["trained"] for one in here if one["recipe"] == name]
        yield f"attention.trained.{name}", trained
        yield (
            f"attention.post-hoc.{name}",
            [one["post_hoc"][name] for one in here if "post_hoc" in one],
        )


def _of_rotation(cells: Looks) -> dict[str, Number | None]:
    """What the rotation of the forward product gains at the same weights, seed by seed."""
    both = [one["post_hoc"] for one in cells if one["head_dim"] == 16 and "post_hoc" in one]
    found: dict[str, Number | None] = {}
    for key, unit in LOCAL.items():
        pairs = [(one["nvfp4-fwd-rht"]["projection"], one["nvfp4"]["projection"]) for one in both]
        apart = [ours[key] - theirs[key] for ours, theirs in pairs]
        found[f"attention.post-hoc.rotation-over-nvfp4.{key}"] = mean(apart, unit)
    return found


def _stressed(cells: Looks) -> Iterator[tuple[str, Looks]]:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in cells:
        for look in one.get("stress", ()):
            kind = f"{look['kind']}-{look['strength']:g}"
            groups[f"attention.stress.{kind}.{look['recipe']}"].append(look)
    yield from groups.items()


def _of_looks(title: str, looks: Looks, path: str) -> dict[str, Number | None]:
    found: dict[str, Number | None] = {}
    for key, unit in LOCAL.items():
        values = [one[path][key] for one in looks if key in one[path]]
        found[f"{title}.{key}"] = mean(values, unit)
    models = [of_model(one) for one in looks]
    for key in OF_MODEL:
        found[f"{title}.{key}"] = mean([one[key] for one in models])
    return found


def of_model(look: Mapping[str, Any]) -> dict[str, float]:
    """The staircase of the predictions and their score, against high precision."""
    after = look["predictions"]
    return {
        "prediction_levels_ratio": after["levels_ratio"],
        "distinct_ratio": after["distinct"] / after["distinct_reference"],
        "largest_step_change": after["largest_step"] - after["largest_step_reference"],
        "auprc_change": after["auprc"] - after["auprc_reference"],
    }


def _slopes(cells: Looks) -> dict[str, Number | None]:
    """Over seeds of which all head dimensions were measured."""
    found: dict[str, Number | None] = {}
    dims = {one["head_dim"] for one in cells}
    for name in sorted({one["recipe"] for one in cells if one["head_dim"] != 16}):
        for path in PATHS:
            for key, unit in (("snr_db", " dB"), ("error_nats", " nats")):
                curves: dict[int, dict[float, float]] = defaultdict(dict)
                for one in sorted(cells, key=lambda cell: cell["head_dim"]):
                    value = under_nvfp4(one)[path].get(key)
                    if one["recipe"] == name and value is not None:
                        curves[one["seed"]][math.log2(one["head_dim"])] = value
                whole = [curve for curve in curves.values() if len(curve) == len(dims)]
                title = f"attention.slope.{path.replace(' ', '-')}.{name}.{key}"
                found[title] = slope(whole, unit) if len(dims) > 1 else None
    return found


def under_nvfp4(cell: Mapping[str, Any]) -> Mapping[str, Any]:
    """A look under ``nvfp4`` where the weights were trained in bf16, else as they were trained."""
    found: Mapping[str, Any] = cell["post_hoc"]["nvfp4"] if "post_hoc" in cell else cell["trained"]
    return found


def tables(stored: Stored) -> list[Table]:
    """What recipes do to attention, what the head dimension does, and the stress tests."""
    found = numbers(stored)
    keys = ("snr_db", "error_nats", "total_variation", "levels_ratio", "prediction_levels_ratio")
    heads = ("logit SNR", "logit error", "total variation", "softmax levels", "prediction levels")
    return [
        *(
            table(
                title,
                "recipe",
                (*heads, "AUPRC"),
                {
                    name: [
                        found.get(f"attention.{start}.{name}.{key}")
                        for key in (*keys, "auprc_change")
                    ]
                    for name in QUANTIZED
                },
            )
            for title, start in (
                ("Attention at weights trained in bf16", "post-hoc"),
                ("Attention at weights trained with the recipe", "trained"),
            )
        ),
        _slope_table(found),
        _stress_table(found, keys, heads),
    ]


def _slope_table(found: Mapping[str, Number]) -> Table:
    rows = {}
    for path in PATHS:
        for name in ("bf16", "nvfp4"):
            title = f"attention.slope.{path.replace(' ', '-')}.{name}"
            rows[f"{path}, trained in {name}"] = [
                found.get(f"{title}.{key}") for key in ("snr_db", "error_nats")
            ]
    some = {name: numbers for name, numbers in rows.items() if any(numbers)}
    columns = ("logit SNR", "logit error")
    return table("Per doubling of the head dimension", "what is rounded", columns, some)


def _stress_table(found: Mapping[str, Number], keys: Sequence[str], heads: Sequence[str]) -> Table:
    titles = dict.fromkeys(
        name.rpartition(".")[0] for name in found if name.startswith("attention.stress.")
    )
    rows = {}
    for title in titles:
        kind, recipe = title.removeprefix("attention.stress.").split(".")
        rows[f"{kind}, {recipe}"] = [found.get(f"{title}.{key}") for key in (*keys, "auprc_change")]
    return table("Stress tests", "planted, recipe", (*heads, "AUPRC"), rows)
