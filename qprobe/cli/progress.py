"""What a training shows while it runs: a bar on a terminal, a line per validation in a pipe."""

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from qprobe.engine import Callback, Training
from qprobe.records import Status


def progress() -> Callback:
    """The right one for where standard error goes."""
    return Bar() if sys.stderr.isatty() else Lines()


class Lines(Callback):
    """One plain line at the start and after each validation."""

    def begin(self, training: Training) -> None:
        """Say what is trained."""
        _print(_title(training))

    def epoch(self, training: Training, scores: Mapping[str, float | None]) -> None:
        """Say where it stands."""
        _print(
            f"step {training.step}/{training.total}  epoch {training.epoch}  "
            f"loss {training.loss:.4f}  {_auprc(scores)}  best {training.best_score:.4f}"
        )


class Bar(Callback):
    """A bar with loss, score and the time that is left."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  auprc {task.fields[score]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )

    def begin(self, training: Training) -> None:
        """Show the bar."""
        _print(_title(training))
        self._progress.start()
        self._task = self._progress.add_task(
            training.config.recipe,
            total=training.total,
            completed=training.step,
            loss=float("nan"),
            score="-",
        )

    def step(self, training: Training) -> None:
        """Move it."""
        self._progress.update(self._task, completed=training.step, loss=training.loss)

    def epoch(self, training: Training, scores: Mapping[str, float | None]) -> None:
        """Show the score."""
        self._progress.update(self._task, score=_auprc(scores).removeprefix("auprc "))

    def end(self, training: Training, status: Status) -> None:
        """Take it away."""
        self._progress.stop()


def _title(training: Training) -> str:
    config, report = training.config, training.bench.conversion
    return (
        f"{config.arch} {config.size} on {config.data} {config.image}², {config.recipe}: "
        f"{len(report.converted)} layers quantized, {len(report.left_alone)} in "
        f"{training.bench.precision.value}, on {training.bench.device}"
    )


def _auprc(scores: Mapping[str, float | None]) -> str:
    value = scores.get("auprc")
    return "auprc -" if value is None else f"auprc {value:.4f}"


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
