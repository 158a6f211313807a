"""Gradient noise in CNNs over width: bias and variance of dw, beside the noise of the mini-batch.

Four stages of 16, 32, 64 or 128 channels, each at its initial weights, early (after a short while
at the full learning rate; not of the widest, whose steps cost most) and late (at the end of a
cosine schedule, where steps are small; a shorter one for the widest). The batches are the
training's own. A recipe without the factor per tensor is the positive control, bf16 the negative
one. What the gradients say is in :mod:`rounding`.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import grid
import torch
import wide
from cell import Cell
from protocol import settings
from torch import Tensor, nn
from training import LAST
from weight_gradients import (
    FAULT,
    Gradients,
    error_of,
    gradient,
    gradients,
    mini_batch_noise,
    operand_shares,
    under,
    weights,
)

from qprobe.engine import TrainConfig, reopen
from qprobe.engine.workbench import Workbench, prepare

NAME = "gradient_noise"

#: Seconds of one core of a training step and of one gradient, by width: for estimates only.
WIDTHS = {16: 0.04, 32: 0.08, 64: 0.2, 128: 0.5}
SEEDS = range(3)
BATCHES = 6
DRAWS = 6
#: Recipes of one gradient a batch, and those whose gradients are drawn.
FIXED = ("bf16", "gradient-nearest", "nvfp4", "nvfp4-fwd", "nvfp4-2d-rht", f"nvfp4{FAULT}")
DRAWN = ("gradient-stochastic", "nvfp4-sr", "nvfp4-2d-rht-sr", f"nvfp4-sr{FAULT}")
_EARLY_STEPS = 80
_WIDEST_STEPS = 100


def cells(scale: str) -> list[Cell]:
    """Trainings that no other stage has, and one measurement per width, phase and seed."""
    if scale == "gpu":
        cnns = [cell for cell in grid.cells(scale) if cell.key.startswith("cnn-")]
        return [_measurement(cell, "late", 1.0) for cell in cnns if _is_baseline(cell)]
    found: list[Cell] = []
    for width, step_s in WIDTHS.items():
        for seed in SEEDS:
            late = _late(width, seed)
            found += [late] if late.stage == NAME else []
            found += [_measurement(late, "init", step_s), _measurement(late, "late", step_s)]
            if width != max(WIDTHS):
                early = _early(width, seed)
                found += [early, _measurement(early, "early", step_s)]
    return found


def _is_baseline(cell: Cell) -> bool:
    config = cell.settings["config"]
    return bool(config["recipe"] == "bf16" and config["seed"] in SEEDS)


def _late(width: int, seed: int) -> Cell:
    """The training whose last weights are those of the late phase; the grid's where it has one."""
    for stage, at in ((grid, 32), (wide, 64)):
        if width == at:
            named = {cell.key: cell for cell in stage.cells("cpu")}
            return named[f"cnn-{'tiny' if at == 32 else '500k'}-bf16-s{seed}"]
    shorter = {"steps": _WIDEST_STEPS} if width == max(WIDTHS) else {}
    return _training(width, seed, "late", shorter)


def _early(width: int, seed: int) -> Cell:
    return _training(width, seed, "early", {"steps": _EARLY_STEPS, "schedule": "constant"})


def _training(width: int, seed: int, phase: str, changes: Mapping[str, Any]) -> Cell:
    config = settings("cpu", "cnn", "tiny", "bf16", seed)["config"]
    config = {**config, **changes, "model": {**config["model"], "channels": width}}
    return Cell(
        stage=NAME,
        key=f"train-{phase}-w{width}-s{seed}",
        settings={"config": config},
        estimate_s=WIDTHS[width] * config["steps"] + 4.0,
    )


def _measurement(training: Cell, phase: str, pass_s: float) -> Cell:
    config = training.settings["config"]
    width = config["model"].get("channels") if "model" in config else None
    width = width or {"tiny": 32, "500k": 64, "4m": 128}[config["size"]]
    passes = len(FIXED) * BATCHES + len(DRAWN) * (BATCHES + DRAWS) + BATCHES
    return Cell(
        stage=NAME,
        key=f"{phase}-w{width}-s{config['seed']}",
        settings={
            "phase": phase,
            "width": width,
            "seed": config["seed"],
            "batches": BATCHES,
            "draws": DRAWS,
        },
        # The initial weights come from the settings of the training, which need not have run.
        needs=(training.name,),
        estimate_s=1.3 * passes * pass_s,
    )


def measure(cell: Cell, folder: Path) -> dict[str, Any]:
    """The scores of a training, or what recipes do to the gradients of a model."""
    if "config" in cell.settings:
        return grid.measure(cell, folder)
    given = cell.settings
    bench = _bench(folder / cell.needs[0] / LAST, given["phase"])
    return {key: given[key] for key in ("phase", "width", "seed")} | _noise(bench, given)


def _bench(last: Path, phase: str) -> Workbench:
    bench = reopen(last)
    if phase != "init":
        return bench
    return prepare(TrainConfig.of(bench.config.as_json()))


def _noise(bench: Workbench, given: Mapping[str, Any]) -> dict[str, Any]:
    bench.train.restart(0)
    batches = [
        (batch.image.to(bench.device), batch.mask.to(bench.device))
        for batch in islice(bench.train, given["batches"])
    ]
    names = weights(bench.model)
    reference = gradients(under(bench.model, "bf16", 0), batches, names)
    found: dict[str, Any] = {
        "batch": len(batches[0][0]),
        "elements": reference.shape[1],
        "norm": float(reference.mean(0).norm()),
        **mini_batch_noise(reference),
        "recipes": {},
    }
    for name, draws in _plan(given["draws"]):
        model = under(bench.model, name, given["seed"])
        errors = Gradients(
            reference=reference,
            quantized=gradients(model, batches, names),
            draws=_drawn(model, batches[0], names, draws),
        )
        shares = operand_shares(model, batches[0]) if name != "bf16" else {}
        found["recipes"][name] = error_of(errors) | shares
    return found


def _plan(draws: int) -> Iterator[tuple[str, int]]:
    for name in FIXED:
        yield name, 0
    for name in DRAWN:
        yield name, draws


def _drawn(model: nn.Module, batch: tuple[Tensor, Tensor], names: list[str], draws: int) -> Tensor:
    """Gradients of one batch, drawn anew each time."""
    found = [gradient(model, batch, names, seed=0) for _ in range(draws)]
    return torch.stack(found) if found else torch.empty(0)
