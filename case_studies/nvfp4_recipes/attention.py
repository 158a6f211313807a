"""Attention in a small Swin: is it discretized by four bits, and does the head dimension decide?

Every Swin of the grid (head dimension 16) is looked at under the recipe that it was trained with,
and the ones trained in high precision also under all eight. Swins of the same width with head
dimensions 8 and 32 are trained for the comparison that the paper argues with. What training did not
grow is planted, and called a stress test: larger logits, an outlier channel before the projection,
an offset in the keys.

What the looks say is in :mod:`discretization`.
"""

import copy
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import grid
import torch
from attended import attention_errors, prediction_change
from cell import Cell
from protocol import RECIPES, estimate_s, settings
from torch import Tensor, nn
from training import best

from qprobe.engine import Workbench, reopen
from qprobe.faults import candidates, plant
from qprobe.quant import NVFP4, Gemm, QuantRecipe, QuantSpec, convert, recipe

NAME = "attention"

#: Head dimension and number of heads of one width, 32.
HEADS = {8: 4, 16: 2, 32: 1}
#: The recipes that are trained at the other head dimensions, and their seeds.
TRAINED = {"bf16": range(5), "nvfp4": range(3)}
IMAGES = 64
_ROUNDED = QuantSpec(format=NVFP4)
#: NVFP4 in every product, those of attention too: the paper's recipes leave these alone.
EVERYWHERE = QuantRecipe(
    name="nvfp4-attention",
    fprop=Gemm(a=_ROUNDED, b=_ROUNDED),
    attention=Gemm(a=_ROUNDED, b=_ROUNDED),
    summary="forward products and those of attention",
    reference="this study",
)
#: One recipe of each kind of forward product, and one that quantizes attention's products.
_FORWARD = ("nvfp4", "nvfp4-fwd-rht", "nvfp4-2d-rht")
STRESS: dict[str, tuple[tuple[float, ...], tuple[str, ...]]] = {
    "logit-growth": ((1.0, 2.0, 4.0, 8.0, 16.0), _FORWARD),
    "channel-outlier": ((1.0, 8.0, 32.0, 128.0), _FORWARD),
    "key-offset": ((0.0, 8.0, 32.0, 128.0), (EVERYWHERE.name,)),
}
_GPU_HEADS = {"500k": 16, "4m": 32}


def cells(scale: str) -> list[Cell]:
    """Trainings at other head dimensions, and one look at every Swin; at ``gpu`` the grid's."""
    if scale == "gpu":
        swins = [cell for cell in grid.cells(scale) if cell.key.startswith("swin-")]
        return [_look(cell, _GPU_HEADS[cell.settings["config"]["size"]]) for cell in swins]
    swins = [cell for cell in grid.cells(scale) if cell.key.startswith("swin-tiny-")]
    looks = [_look(cell, 16) for cell in swins]
    for head_dim in (8, 32):
        trainings = list(_trainings(scale, head_dim))
        looks += [*trainings, *(_look(cell, head_dim) for cell in trainings)]
    return looks


def _trainings(scale: str, head_dim: int) -> Iterator[Cell]:
    for name, seeds in TRAINED.items():
        for seed in seeds:
            given = settings(scale, "swin", "tiny", name, seed)
            config = given["config"]
            model = {**config["model"], "heads": HEADS[head_dim]}
            yield Cell(
                stage=NAME,
                key=f"train-hd{head_dim}-{name}-s{seed}",
                settings={"config": {**config, "model": model}},
                estimate_s=estimate_s(scale, "swin", "tiny", name),
            )


def _look(training: Cell, head_dim: int) -> Cell:
    config = training.settings["config"]
    stressed = config["recipe"] == "bf16" and head_dim == 16
    return Cell(
        stage=NAME,
        key=f"hd{head_dim}-{config['recipe']}-s{config['seed']}",
        settings={
            "head_dim": head_dim,
            "recipe": config["recipe"],
            "seed": config["seed"],
            "images": IMAGES,
            "stress": {kind: list(doses) for kind, (doses, _) in STRESS.items()}
            if stressed
            else {},
        },
        needs=(training.name,),
        estimate_s=25.0 if stressed else 6.0 if config["recipe"] == "bf16" else 1.5,
    )


def measure(cell: Cell, folder: Path) -> dict[str, Any]:
    """The scores of a training, or what a recipe does to the attention of a trained model."""
    if "config" in cell.settings:
        return grid.measure(cell, folder)
    given = cell.settings
    bench = reopen(best(folder, cell.needs[0]))
    images, masks = _images(bench, given["images"])
    model = bench.model.eval()
    found: dict[str, Any] = {key: given[key] for key in ("head_dim", "recipe", "seed")}
    found["trained"] = look(under(model, given["recipe"]), images, masks)
    if given["recipe"] == "bf16":
        found["post_hoc"] = {name: look(under(model, name), images, masks) for name in RECIPES}
    if given["stress"]:
        found["stress"] = [
            {"kind": kind, "strength": dose, "recipe": name}
            | look(stressed(model, name, kind, dose), images, masks)
            for kind, doses in given["stress"].items()
            for name in STRESS[kind][1]
            for dose in doses
        ]
    return found


def _images(bench: Workbench, count: int) -> tuple[Tensor, Tensor]:
    """The first validation images and their masks."""
    bench.validation.restart(0)
    batches = list(islice(bench.validation, -(-count // bench.config.batch)))
    images = torch.cat([batch.image for batch in batches])[:count]
    return images.to(bench.device), torch.cat([batch.mask for batch in batches])[:count]


def look(model: nn.Module, images: Tensor, masks: Tensor) -> dict[str, Any]:
    """Errors of a running model's attention by path, and the staircase of its predictions."""
    paths = attention_errors(model, images)
    return {**paths, "predictions": prediction_change(model, images, masks)}


def under(model: nn.Module, name: str) -> nn.Module:
    """A copy of a model under a recipe."""
    twin = copy.deepcopy(model)
    convert(twin, EVERYWHERE if name == EVERYWHERE.name else recipe(name))
    return twin


def stressed(model: nn.Module, name: str, kind: str, strength: float) -> nn.Module:
    """A copy under a recipe with one kind of defect at every projection to queries and keys."""
    twin = under(model, name)
    for site in candidates(twin, kind):
        if site.endswith(".attn.qkv"):
            plant(twin, kind, site, strength=strength)
    return twin
