"""Probes in a training of qprobe's own engine: one callback.

::

    qprobe.train(config, folder, callbacks=[ProbeCallback(every=10, budget="2%")])
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import torch
from torch import Tensor, nn

from qprobe.probes.attach import DEFAULT, attach
from qprobe.probes.base import Probe
from qprobe.probes.budget import ALLOWED, UNLIMITED
from qprobe.records import RunWriter, Status

if TYPE_CHECKING:
    from qprobe.probes.session import Session

#: Examples of the batch that shows which attentions and fusions a model computes.
_EXAMPLES: Final = 2
_EVERY: Final = 10

T = TypeVar("T")


class Bench(Protocol):
    """What is needed of the parts of a training."""

    @property
    def model(self) -> nn.Module:
        """The model under its recipe."""

    @property
    def scaler(self) -> torch.amp.GradScaler:
        """What multiplies the loss."""

    def autocast(self) -> AbstractContextManager[None]:
        """The context of a forward pass."""

    def example(self, count: int) -> Tensor:
        """A few images, read apart from the training's own batches."""


class Training(Protocol):
    """What is needed of a training."""

    @property
    def bench(self) -> Bench:
        """Its parts."""

    @property
    def writer(self) -> RunWriter:
        """Its run file, which others flush and close."""

    @property
    def step(self) -> int:
        """Steps that are done."""


class ProbeCallback:
    """Watches the model that the engine trains, and files what it sees in the training's own run.

    The training stays what it is, to the bit. Gradients of weights are seen unscaled and before
    they are clipped; validation is not looked at. One that is taken up again goes on looking where
    it stood, with the probes it was begun with unless ``probes`` says otherwise; what was recorded
    after the checkpoint is taken back with everything else of that time.

    ``probes``
        As :func:`qprobe.attach` takes them; none of them: nothing is watched. None: those of a
        training that is taken up, and the default ones of a new one.
    ``every``, ``budget``
        As :func:`qprobe.attach` takes them; "none" is no budget. None: likewise, else 10 and 5 %.
    ``options``
        The other options of :func:`qprobe.attach`.
    """

    name = "probes"

    def __init__(
        self,
        probes: str | Sequence[str | Probe] | None = None,
        *,
        every: int | None = None,
        budget: str | float | None = None,
        **options: Any,
    ) -> None:
        self._probes, self._every, self._budget = probes, every, budget
        self._options = options
        self._saved: Mapping[str, Any] = {}
        #: What watches, while it does; afterwards the last one.
        self.session: Session | None = None

    def state_dict(self) -> dict[str, Any]:
        """What was chosen, probes by name, and what the session remembers."""
        return {
            "probes": _names(self._probes),
            "every": self._every,
            "budget": self._budget,
            "session": None if self.session is None else self.session.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a training; what this callback was told has the last word."""
        self._saved = state

    def begin(self, training: Training) -> None:
        """Attach; the model is traced once, on examples of its own."""
        begun = training.step > 0 and not self._saved  # without this callback, before it came
        default = () if begun else DEFAULT
        self._probes = _first(self._probes, self._saved.get("probes"), default)
        self._every = _first(self._every, self._saved.get("every"), _EVERY)
        self._budget = _first(self._budget, self._saved.get("budget"), ALLOWED)
        if not self._probes:
            return
        self.session = self._attach(training, self._probes)
        if self._saved.get("session"):
            self.session.load_state_dict(self._saved["session"])

    def _attach(self, training: Training, probes: str | Sequence[str | Probe]) -> "Session":
        bench = training.bench
        bench.model.train()  # as the engine does before each step
        options: dict[str, Any] = {
            "every": self._every,
            "budget": None if self._budget == UNLIMITED else self._budget,
            "loss_scale": bench.scaler.get_scale,
            "start": training.step,
        }
        with bench.autocast():
            if "example" not in self._options:
                options["example"] = (bench.example(_EXAMPLES),)
            return attach(bench.model, training.writer, probes, **{**options, **self._options})

    def gradients(self, training: Training) -> None:
        """Read weights and their gradients as the pass has made them."""
        if self.session is not None:
            self.session.read_weights()

    def step(self, training: Training) -> None:
        """Count a step."""
        if self.session is not None:
            self.session.step()

    def epoch(self, training: Training, scores: Mapping[str, float | None]) -> None:
        """Nothing: passes without gradients are not looked at."""

    def end(self, training: Training, status: Status) -> None:
        """Detach."""
        if self.session is not None:
            self.session.close(status)


def _first(*choices: T | None) -> T | None:
    return next((one for one in choices if one is not None), None)


def _names(probes: str | Sequence[str | Probe] | None) -> str | list[str] | None:
    if probes is None or isinstance(probes, str):
        return probes
    return [one if isinstance(one, str) else one.name for one in probes]
