"""Are attention models in flatter minima, and does that predict what quantization costs?

A CNN and a Swin of every seed are trained in high precision, both to the end of a cosine schedule
that is short enough for the CNN to end near the Swin's training loss. Two states of each are
measured: *level*, the first look at which the loss of the same 64 training images in evaluation
mode is at most :data:`LEVEL` (equal loss), and *end*, the last weights. What the states say is in
:mod:`minima`.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from cell import Cell
from flatness import (
    Effort,
    along_gradients,
    costs,
    costs_by_layer,
    curvature,
    replica_of,
    weight_change,
)
from protocol import QUANTIZED, settings
from torch import Tensor, nn

from qprobe.engine import Callback, TrainConfig, Training, train
from qprobe.engine.data import Loader, LoaderConfig
from qprobe.engine.losses import bce_tversky
from qprobe.engine.workbench import prepare
from qprobe.errors import QprobeError

NAME = "curvature"

SEEDS = range(5)
#: Steps of each architecture: the CNN learns faster.
STEPS = {"cnn": 150, "swin": 600}
#: The training loss at which the architectures are compared, and steps between two looks.
LEVEL = 0.93
LOOK = 5
#: Eight batches of eight: a batch is a unit of the standard errors.
BATCH, BATCHES = 8, 8
#: Coarser formats: where quantization is sure to cost something.
CONTROLS = ("int4-tensor", "int3-tensor")
FACTORS = (0.5, 2.0, 4.0)
GRADIENTS = ("nvfp4-fwd", "nvfp4", "nvfp4-sr", "nvfp4-2d-rht-sr", "int4-tensor")

Pairs = list[tuple[Tensor, Tensor]]


def cells(scale: str) -> list[Cell]:
    """One per architecture and seed; second derivatives of large models are left to the CPU."""
    if scale == "gpu":
        return []
    return [
        Cell(
            stage=NAME,
            key=f"{arch}-s{seed}",
            settings={
                "config": {
                    **settings("cpu", arch, "tiny", "bf16", seed)["config"],
                    "steps": steps,
                },
                "level": LEVEL,
                "draws": 8,
                "steps": 10,
            },
            estimate_s={"cnn": 90.0, "swin": 110.0}[arch],
        )
        for seed in SEEDS
        for arch, steps in STEPS.items()
    ]


def measure(cell: Cell, folder: Path) -> dict[str, Any]:
    """Train, and measure the two states."""
    given = cell.settings
    config = TrainConfig.of(given["config"])
    watch = Watch(given["level"])
    shutil.rmtree(folder / cell.name, ignore_errors=True)
    result = train(config, folder / cell.name, callbacks=[watch])
    if result.status == "interrupted":
        raise KeyboardInterrupt
    if result.status != "finished":
        raise QprobeError(f"the training of {cell.name} stopped: {result.reason}.")
    states = {"end": watch.last, **({"level": watch.first} if watch.first else {})}
    effort = Effort(draws=given["draws"], steps=given["steps"])
    found: dict[str, Any] = {"arch": config.arch, "seed": config.seed, "losses": watch.losses}
    for title, state in states.items():
        model = prepare(config).model
        model.load_state_dict(state["model"])
        found[title] = {"step": state["step"], **_around(model.eval(), watch.batches, effort)}
    return found


class Watch(Callback):
    """Keeps the first weights whose loss on fixed training images is at most a level, and the last.

    The loss is that of evaluation mode, of images that no augmentation changes.
    """

    def __init__(self, level: float) -> None:
        self._level = level
        self.batches: Pairs = []
        self.first: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        #: Steps and losses.
        self.losses: list[tuple[int, float]] = []

    def begin(self, training: Training) -> None:
        """Take the images."""
        source = training.bench.train
        chosen = source.order(0)[: BATCH * BATCHES]
        loader = Loader(source.dataset, chosen, LoaderConfig(batch=BATCH))
        self.batches = [(batch.image, batch.mask) for batch in loader]

    def step(self, training: Training) -> None:
        """Look at every fifth step and at the last."""
        last = training.step == training.total
        if training.step % LOOK and not last:
            return
        loss = mean_loss(training.model, self.batches)
        self.losses.append((training.step, loss))
        if last:
            self.last = _state(training)
        if loss <= self._level and not self.first:
            self.first = _state(training)


def _state(training: Training) -> dict[str, Any]:
    weights = {name: value.clone() for name, value in training.model.state_dict().items()}
    return {"step": training.step, "model": weights}


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Pairs) -> float:
    """The loss in evaluation mode; the model's mode is what it was."""
    was_training = model.training
    model.eval()
    losses = [float(bce_tversky(model(image), mask)) for image, mask in batches]
    model.train(was_training)
    return sum(losses) / len(losses)


def _around(model: nn.Module, batches: Pairs, effort: Effort) -> Mapping[str, Any]:
    """Curvature and costs around some weights; recipes with one and the same error share a row."""
    replica = replica_of(model, batches)
    changes: dict[str, dict[str, Tensor]] = {}
    same: dict[str, str] = {}
    for name in (*QUANTIZED, *CONTROLS):
        change = weight_change(model, name)
        same[name] = next((one for one in changes if _equal(changes[one], change)), name)
        changes.setdefault(same[name], change)
    rows = costs(replica, changes, FACTORS)
    return {
        "loss": mean_loss(model, batches),
        "curvature": curvature(replica, list(changes["nvfp4"]), effort, seed=0),
        "along": along_gradients(replica, model, GRADIENTS),
        "costs": {name: rows[one] for name, one in same.items() if name == one},
        "same": same,
        "layers": {
            name: costs_by_layer(replica, changes[name]) for name in ("nvfp4", "int4-tensor")
        },
    }


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )
