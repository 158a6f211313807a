"""Probes in a training of Lightning: one callback.

::

    trainer = lightning.Trainer(callbacks=[ProbeCallback("run.qprobe")])
"""

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from qprobe.errors import MissingExtraError
from qprobe.probes.attach import attach
from qprobe.records import RunWriter, Status

if TYPE_CHECKING:
    from qprobe.probes.session import Session

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise MissingExtraError("this callback needs Lightning: pip install lightning.") from error


class ProbeCallback(Callback):
    """Watches the module that a trainer fits, from the first batch to the last.

    Takes what :func:`qprobe.attach` takes beside the model. A step is an optimizer step, so batches
    that gradients are accumulated over are one. The loss is what ``training_step`` returns, of the
    last of them. Validation is not looked at. A training that goes on from a checkpoint goes on
    counting, takes up the run file after the last step that the checkpoint knows, and remembers
    what the session knew there.
    """

    def __init__(self, run: str | PathLike[str] | RunWriter | None = None, **options: Any) -> None:
        self._run = run
        self._options = options
        self._open = False
        self._saved: Mapping[str, Any] | None = None
        #: What watches, while it does; afterwards the last one.
        self.session: Session | None = None

    def state_dict(self) -> dict[str, Any]:
        """What the session remembers, for the trainer's checkpoint."""
        return {} if self.session is None else {"session": self.session.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up when the training goes on."""
        self._saved = state_dict.get("session")

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach before the first pass: a model that has run compiled cannot be watched."""
        self._attach(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach, now that a checkpoint has been taken up and nothing has been trained."""
        self._attach(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count a step, if the optimizer has made one."""
        if self.session is not None and trainer.global_step > self.session.steps:
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            self.session.step(loss=loss)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Detach, and say how it ended."""
        self._close(Status.INTERRUPTED if trainer.interrupted else Status.FINISHED)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Detach, and leave the reason in the run."""
        interrupted = isinstance(exception, KeyboardInterrupt)
        status = Status.INTERRUPTED if interrupted else Status.FAILED
        self._close(status, f"{type(exception).__name__}: {exception}")

    def _attach(self, trainer: Trainer, module: LightningModule) -> None:
        if self._open:
            return
        options: dict[str, Any] = {"start": trainer.global_step}
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            options["loss_scale"] = scaler.get_scale
        self.session = attach(module, self._run, **{**options, **self._options})
        self._open = True
        if self._saved is not None:
            self.session.load_state_dict(self._saved)
            self._saved = None

    def _close(self, status: Status, reason: str | None = None) -> None:
        if self.session is not None and self._open:
            self._open = False
            self.session.close(status, reason)
