"""Numbers of a session in a run of Weights & Biases.

::

    run = wandb.init(project="four bits")
    session = qprobe.attach(model, sink=WandbSink(run))
"""

from typing import Any, Final, Protocol

#: What stands before every tag, and the axis on which they are drawn.
PREFIX: Final = "qprobe/"
STEP: Final = f"{PREFIX}step"


class Run(Protocol):
    """What is needed of a run, as ``wandb.init`` gives it."""

    def log(self, data: dict[str, Any]) -> None:
        """Take a row of numbers."""

    def define_metric(self, name: str, *, step_metric: str | None = None) -> Any:
        """Say over which other number a number is drawn."""


class WandbSink:
    """Logs what a session finds, all numbers of a step in one row, over an axis of its own.

    A session tells numbers when it has looked, so those of a few steps come late. A run ignores
    what is logged with a ``step`` that is behind its own; so none is given, and ``qprobe/step`` is
    the axis. Each row moves the run's own step on by one: a loop that logs beside it gives its step
    as a number too, as the callbacks of Lightning and Hugging Face do, and no ``step=``.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._step = 0
        self._values: dict[str, float] = {}
        run.define_metric(STEP)
        run.define_metric(f"{PREFIX}*", step_metric=STEP)

    def __call__(self, tag: str, value: float, step: int) -> None:
        """One number; it is logged with the others of its step."""
        if step != self._step:
            self.flush()
        self._step = step
        self._values[f"{PREFIX}{tag}"] = value

    def flush(self) -> None:
        """Log what has come; a session calls this when a look is written."""
        if self._values:
            self._run.log({STEP: self._step, **self._values})
            self._values = {}
