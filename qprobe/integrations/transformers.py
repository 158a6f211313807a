"""Probes in the Trainer of Hugging Face: one callback.

::

    trainer = Trainer(model=model, args=args, callbacks=[ProbeCallback("run.qprobe")])
"""

import warnings
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch

from qprobe.errors import MissingExtraError
from qprobe.probes.attach import attach
from qprobe.records import RunWriter, Status

if TYPE_CHECKING:
    from torch import nn

    from qprobe.probes.session import Session

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ImportError as error:
    raise MissingExtraError(
        "this callback needs transformers: pip install transformers."
    ) from error


class ProbeCallback(TrainerCallback):
    """Watches the model that a ``Trainer`` trains, from its first step to its last.

    Takes what :func:`qprobe.attach` takes beside the model. A step is an optimizer step. What the
    trainer logs, the loss among it, is recorded with the step it is logged at.

    Each checkpoint of the trainer gets a file ``qprobe_0.pt`` with what the session remembers, one
    for each process. A training that goes on from a checkpoint goes on counting, takes up the run
    file after the checkpoint's step, and remembers what the session knew there. Trainers do not
    tell where they found their checkpoint: where it is not in ``output_dir``, say
    ``checkpoint="that/checkpoint-500"``.

    A trainer tells its callbacks of no exception. Train inside ``with callback:`` to have hooks
    taken off and the reason in the run whatever happens.
    """

    def __init__(
        self,
        run: str | PathLike[str] | RunWriter | None = None,
        *,
        checkpoint: str | PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        self._run = run
        self._checkpoint = checkpoint
        self._options = options
        self._open = False
        self._logged: dict[int, set[str]] = {}
        #: What watches, while it does; afterwards the last one.
        self.session: Session | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Attach: a checkpoint has been taken up and nothing has been trained."""
        self.close()
        model: nn.Module = kwargs["model"]
        self.session = attach(model, self._run, **{"start": state.global_step, **self._options})
        self._open = True
        if state.global_step:
            self._take_up(self.session, _beside(args, state, self._checkpoint))

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave what the session remembers in the checkpoint that was just saved."""
        if self.session is None:
            return
        file = _beside(args, state)
        if file.parent.is_dir():
            torch.save(self.session.state_dict(), file)
        else:
            warnings.warn(
                f"there is no checkpoint at {file.parent}, so what the session remembers is not "
                "saved; a training that goes on from this one's checkpoint will look anew.",
                stacklevel=2,
            )

    @staticmethod
    def _take_up(session: "Session", file: Path) -> None:
        if file.is_file():
            session.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        else:
            warnings.warn(
                f"there is no {file}, so the session does not remember what it knew when the "
                "checkpoint was saved; where that is elsewhere, pass checkpoint= to the callback.",
                stacklevel=2,
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count a step."""
        if self.session is not None:
            self.session.step()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record the numbers that the trainer reports."""
        if self.session is not None and self._open:
            logs = kwargs.get("logs") or {}
            # The summary at the end repeats the epoch of the last step.
            known = self._logged.setdefault(state.global_step, set())
            numbers = {
                key: one
                for key, one in logs.items()
                if isinstance(one, int | float) and key not in known
            }
            self._logged = {state.global_step: known | numbers.keys()}
            self.session.log(**numbers)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Detach."""
        self.close()

    def close(self, status: Status = Status.FINISHED, reason: str | None = None) -> None:
        """Take hooks off and close the run; closing twice is allowed."""
        if self.session is not None and self._open:
            self._open = False
            self.session.close(status, reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        elif isinstance(error, KeyboardInterrupt):
            self.close(Status.INTERRUPTED, "interrupted from the keyboard")
        else:
            self.close(Status.FAILED, f"{type(error).__name__}: {error}")


def _beside(
    args: TrainingArguments, state: TrainerState, checkpoint: str | PathLike[str] | None = None
) -> Path:
    """Where this process's part of what a session remembers lies in a checkpoint."""
    step = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
    folder = Path(args.output_dir or ".", step) if checkpoint is None else Path(checkpoint)
    return folder / f"qprobe_{args.process_index}.pt"
