"""The state of a training, how it ends, and who may watch it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from qprobe.engine.config import TrainConfig
from qprobe.engine.workbench import Workbench
from qprobe.records import RunWriter, Status


class Callback(Protocol):
    """Hooks into a training; derive from it and override what you need, or have them all.

    A callback sees the training after each optimizer step and each validation. It must leave the
    model, the gradients and the global random state as it found them, or the run is another run.
    What it has to remember when the training is taken up again goes through :meth:`state_dict`.
    """

    # Each method returns, so that type checkers do not take it for one that must be overridden.

    @property
    def name(self) -> str:
        """Under which its state is saved; two callbacks of one name cannot both have a state."""
        return type(self).__name__

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, text, lists and tables of them, saved with the training."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave; called before :meth:`begin`, if at all."""
        return

    def begin(self, training: "Training") -> None:
        """Before the first step of this process."""
        return

    def gradients(self, training: "Training") -> None:
        """After each backward pass: gradients are whole and unscaled, and not yet clipped."""
        return

    def step(self, training: "Training") -> None:
        """After each optimizer step."""
        return

    def epoch(self, training: "Training", scores: Mapping[str, float | None]) -> None:
        """After each validation."""
        return

    def end(self, training: "Training", status: Status) -> None:
        """When the training leaves, whatever the reason; the run can still be written to."""
        return


@dataclass(kw_only=True, eq=False)
class Training:
    """The state of a training, as callbacks see it."""

    bench: Workbench
    folder: Path
    writer: RunWriter
    callbacks: Sequence[Callback]
    step: int = 0
    epoch: int = 0
    loss: float = math.nan
    grad_norm: float = math.nan
    #: Why the last step left the weights alone.
    nonfinite: str | None = None
    best_score: float = -math.inf
    best_step: int = 0
    #: The score that early stopping compares with, and the epoch it was reached in.
    bar: float = -math.inf
    bar_epoch: int = 0
    over: bool = False
    failure: str | None = None
    flushed_s: float = field(default=0.0, repr=False)

    @property
    def config(self) -> TrainConfig:
        """The configuration, with the protocol filled in."""
        return self.bench.config

    @property
    def model(self) -> nn.Module:
        """The model under its recipe."""
        return self.bench.model

    @property
    def total(self) -> int:
        """Optimizer steps of the whole training, early stopping aside."""
        return self.bench.total

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.bench.optimizer.param_groups[0]["lr"])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """How a training ended."""

    folder: Path
    status: Status
    steps: int
    epochs: int
    best_step: int
    best_score: float
    #: Scores of the best weights on the test set; empty unless the training finished.
    test: Mapping[str, float]
    #: Why it failed.
    reason: str | None = None
