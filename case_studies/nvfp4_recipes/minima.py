"""Flatness and what it foretells: numbers and tables from the states of stage ``curvature``.

``curvature.STATE.ARCH.QUANTITY`` are means over seeds with t intervals, ``level`` being the state
of equal training loss and ``end`` the last one:

- ``loss``, ``gradient_norm``; ``trace``, ``trace_per_parameter`` and ``top`` of the Hessian, which
  depend on the scale of the weights; ``normalised_trace`` and ``normalised_top``, which do not.
- ``near_zero`` and ``negative``, from the density of the spectrum of the Hessian: the share of its
  eigenvalues whose size is at most a hundredth of the largest, and the share clearly below zero.
- ``along_gradient`` (gᵀHg/gᵀg), ``RECIPE.along_noise`` (nᵀHn/nᵀn) and ``RECIPE.noise_share``
  (nᵀHn/gᵀHg) of the gradient's error n.
- ``RECIPE.second`` (½·ΔwᵀHΔw), ``RECIPE.predicted`` (with gᵀΔw) and ``RECIPE.measured``: what the
  error of the recipe's weights does to the loss, in thousandths of that loss. Recipes that take
  weights alike share a row.

``curvature.STATE.swin-over-cnn.QUANTITY`` is the geometric mean of ratios, seed by seed, where all
are positive, and ``curvature.STATE.swin-less-cnn.QUANTITY`` the mean difference.
``curvature.rank.RECIPE.PREDICTOR`` is Kendall's τ-b of a predictor and the measured increase over
all models and states (of one model two states, so the interval is somewhat too narrow), and
``curvature.STATE.ARCH.layers.RECIPE`` that over the layers of a model, as a mean over seeds.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from number import Number, Stored, mean, present
from over_seeds import Table, ratio, table

from qprobe.inference import kendall_tau

STATES = ("level", "end")
ARCHITECTURES = ("cnn", "swin")
RANKED = ("nvfp4", "int4-tensor")
#: One recipe of each way to take weights, and the coarser controls.
_COSTLY = ("nvfp4", "nvfp4-fwd-rht", "nvfp4-2d-rht", "int4-tensor", "int3-tensor")
PREDICTORS = ("trace", "normalised_trace", "nvfp4.noise_share", "second", "predicted")
_COSTS = ("first", "second", "predicted", "measured")
#: Costs are shown in thousandths of the loss.
_THOUSANDTHS = 1000.0

#: Quantities of one state of one model.
Quantities = Mapping[str, float]


def numbers(stored: Stored) -> dict[str, Number]:
    """Every number that the top of this file lists."""
    cells = list(stored.get("curvature", {}).values())
    found: dict[str, Number | None] = {}
    for state in STATES:
        of = {
            arch: {
                c["seed"]: quantities(c[state]) for c in cells if c["arch"] == arch and state in c
            }
            for arch in ARCHITECTURES
        }
        for arch in ARCHITECTURES:
            title = f"curvature.{state}.{arch}"
            for key in _keys(of[arch]):
                found[f"{title}.{key}"] = mean(list(_values(of[arch], key).values()))
            for recipe in RANKED:
                each = [
                    _layers(c[state], recipe) for c in cells if c["arch"] == arch and state in c
                ]
                found[f"{title}.layers.{recipe}"] = mean([one for one in each if one is not None])
        found |= _between(f"curvature.{state}", of)
    for recipe, predictor in product(RANKED, PREDICTORS):
        found[f"curvature.rank.{recipe}.{predictor}"] = _rank(cells, recipe, predictor)
    return present(found)


def quantities(state: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one state by name."""
    curved, along = state["curvature"], state["along"]
    trace = curved["hessian"]["trace"]["estimate"]
    found = {
        "loss": state["loss"],
        "gradient_norm": along["gradient_norm"],
        "along_gradient": along["along_gradient"],
        "trace": trace,
        "trace_per_parameter": trace / curved["parameters"],
        "top": curved["hessian"]["top"][0],
        "normalised_trace": curved["normalised"]["trace"]["estimate"],
        "normalised_top": curved["normalised"]["top"][0],
        "near_zero": _near_zero(curved["hessian"]["density"]),
        "negative": curved["hessian"]["density"]["negative_share"]["estimate"],
    }
    for recipe, one in along.items():
        if isinstance(one, Mapping):
            found |= {f"{recipe}.{key}": one[key] for key in ("along_noise", "noise_share")}
    share = _THOUSANDTHS / state["loss"]
    for recipe, row in state["costs"].items():
        found |= {f"{recipe}.{key}": share * row[key] for key in _COSTS}
    return found


def _near_zero(density: Mapping[str, Any]) -> float:
    """The share of eigenvalues of at most a hundredth of the largest size; mean over draws.

    >>> _near_zero({"nodes": [[-0.01, 0.5, 1.0]], "weights": [[0.5, 0.25, 0.25]]})
    0.5
    """
    shares = []
    for nodes, weights in zip(density["nodes"], density["weights"], strict=True):
        limit = 0.01 * max(abs(node) for node in nodes)
        near = (w for node, w in zip(nodes, weights, strict=True) if abs(node) <= limit)
        shares.append(sum(near) / sum(weights))
    return sum(shares) / len(shares)


def _keys(of: Mapping[int, Quantities]) -> list[str]:
    return list(dict.fromkeys(key for one in of.values() for key in one))


def _values(of: Mapping[int, Quantities], key: str) -> dict[int, float]:
    return {seed: one[key] for seed, one in of.items() if key in one}


def _between(title: str, of: Mapping[str, Mapping[int, Quantities]]) -> dict[str, Number | None]:
    """Swin against CNN, seed by seed."""
    found: dict[str, Number | None] = {}
    for key in _keys(of["swin"]):
        swin, cnn = (_values(of[arch], key) for arch in ("swin", "cnn"))
        seeds = sorted(swin.keys() & cnn.keys())
        apart = [swin[seed] - cnn[seed] for seed in seeds]
        found[f"{title}.swin-less-cnn.{key}"] = mean(apart)
        if all(value > 0 for value in (*swin.values(), *cnn.values())):
            found[f"{title}.swin-over-cnn.{key}"] = ratio(swin, cnn, "")
    return found


def _layers(state: Mapping[str, Any], recipe: str) -> float | None:
    """τ-b of predicted and measured costs over the layers of one model; None below five of them."""
    rows = state["layers"].get(recipe, [])
    if len(rows) < 5:
        return None
    predicted = [row["first"] + row["second"] for row in rows]
    return kendall_tau(predicted, [row["measured"] for row in rows]).estimate


def _rank(cells: Sequence[Mapping[str, Any]], recipe: str, predictor: str) -> Number | None:
    """Over every state of every model."""
    states = [quantities(cell[state]) for cell in cells for state in STATES if state in cell]
    name = f"{recipe}.{predictor}" if predictor in _COSTS else predictor
    pairs = [(one[name], one[f"{recipe}.measured"]) for one in states]
    if len(pairs) < 5:
        return None
    return Number.of(kendall_tau(*zip(*pairs, strict=True)))


def tables(stored: Stored) -> list[Table]:
    """Curvature and costs by state, and what foretells the measured increase."""
    found = numbers(stored)
    sizes = ("trace", "top", "normalised_trace", "normalised_top")
    plain = ("loss", "gradient_norm", *sizes, "near_zero", "negative")
    along = tuple(f"{name}.noise_share" for name in ("nvfp4", "nvfp4-sr", "int4-tensor"))
    costs = [f"{recipe}.{key}" for recipe in _COSTLY for key in ("second", "measured")]
    keys = (*plain, "along_gradient", *along, *costs)
    each = [
        table(
            f"Curvature, {state}",
            "quantity",
            ("CNN", "Swin", "Swin over CNN", "Swin less CNN"),
            {key: [found.get(name) for name in _names(state, key)] for key in keys},
        )
        for state in STATES
    ]
    ranks = {
        predictor: [found.get(f"curvature.rank.{recipe}.{predictor}") for recipe in RANKED]
        for predictor in PREDICTORS
    }
    return [*each, table("Rank correlation with the measured increase", "predictor", RANKED, ranks)]


def _names(state: str, key: str) -> list[str]:
    return [
        f"curvature.{state}.{group}.{key}"
        for group in ("cnn", "swin", "swin-over-cnn", "swin-less-cnn")
    ]
