"""A training that goes on from a checkpoint for a few steps, as often as asked, alike each time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from qprobe.engine import checkpoint
from qprobe.engine.config import Precision, Schedule, TrainConfig
from qprobe.engine.data import Batch, Loader
from qprobe.engine.optimizer_step import optimizer_step
from qprobe.engine.optimizers import factor, optimizer
from qprobe.engine.workbench import Workbench


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Continuation:
    """What a subject offers for short runs: the training of a checkpoint, gone on with.

    Each call takes up optimizer and data position as the checkpoint has them; weights are the
    model's own and random numbers PyTorch's, both of which the caller sets. ``last.pt`` holds both;
    a ``best.pt`` holds the weights only, so the optimizer is new and data begin with its epoch.

    The learning rate follows the schedule. Where fewer steps are left than are asked for, it is
    taken as many steps before its end: past it nothing would move.
    """

    bench: Workbench
    path: Path

    @property
    def resumes(self) -> bool:
        """Whether the checkpoint holds the optimizer's state."""
        return "optimizer" in checkpoint.load(self.path)

    def __call__(self, model: nn.Module, steps: int) -> Iterator[float]:
        """Train ``model``; the loss of each step."""
        state = checkpoint.load(self.path, self.bench.device)
        config = self.bench.config
        moved = optimizer(config, model)
        if "optimizer" in state:
            moved.load_state_dict(state["optimizer"])
        bench = replace(self.bench, model=model, optimizer=moved, scaler=self._scaler(state))
        first = min(state["step"], max(0, bench.total - steps))
        batches = islice(_batches(bench.train, state), steps)
        for at, batch in enumerate(batches, start=first):
            _set_rate(moved, config, at, bench.total)
            yield optimizer_step(bench, batch, lambda _: None).loss

    def _scaler(self, state: Mapping[str, Any]) -> torch.amp.GradScaler:
        enabled = self.bench.precision is Precision.FP16
        scaler = torch.amp.GradScaler(self.bench.device.type, enabled=enabled)
        if "scaler" in state:
            scaler.load_state_dict(state["scaler"])
        return scaler


def _batches(loader: Loader, state: Mapping[str, Any]) -> Iterator[Batch]:
    """The batches that the training would have seen next, without end."""
    if "loader" in state:
        loader.load_state_dict(state["loader"])
    else:
        loader.restart(state["epoch"])
    while True:
        yield from loader


def _set_rate(moved: Optimizer, config: TrainConfig, step: int, total: int) -> None:
    """The rate of a schedule over steps; a plateau's is the optimizer's own."""
    if config.schedule is Schedule.PLATEAU or config.lr is None:
        return
    for group in moved.param_groups:
        group["lr"] = config.lr * factor(config, step, total)
