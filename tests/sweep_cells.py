"""Trainings that take no time, for sweeps: importable, so that they reach a worker."""

import hashlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from qprobe.engine.config import TrainConfig
from qprobe.records import Column, Metric, RunInfo, RunWriter, create, resume
from qprobe.records import open as open_run

STEP = Column("", "", "training", "loss")
RUN = "run.qprobe"


def score(config: TrainConfig) -> float:
    """A score that depends on recipe, seed and fold, between 0.7 and 0.9."""
    text = f"{config.recipe} {config.seed} {config.fold}"
    return 0.7 + 0.2 * hashlib.sha256(text.encode()).digest()[0] / 255


def begin(config: TrainConfig, folder: Path) -> tuple[RunWriter, int]:
    """A writer for the cell, and the step to go on from."""
    path = folder / RUN
    if path.exists():
        with open_run(path) as run:
            done = [step for _, series in run.select() for step in series.steps.tolist()]
        last = max(done, default=-1)
        return resume(path, after_step=max(last, 0)), last + 1
    settings = config.resolved().as_json() | {"hash": config.hash}
    return create(path, RunInfo(config=settings, environment={}, recipe=config.recipe)), 0


def note(folder: Path, name: str) -> None:
    """Append a line that survives this process, and that two processes cannot mix up."""
    with (folder / name).open("ab", buffering=0) as log:
        log.write(f"{os.getpid()}\n".encode())


def lines(folder: Path, name: str) -> list[int]:
    """The processes that noted it."""
    path = folder / name
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@dataclass(frozen=True)
class Trainer:
    """``steps`` steps of ``pause_s`` each, resumable; Ctrl-C saves as a training does."""

    steps: int = 2
    pause_s: float = 0.0

    def __call__(self, config: TrainConfig, folder: Path) -> Path:
        note(folder, "started.log")
        writer, first = begin(config, folder)
        with writer:
            for step in range(first, self.steps):
                writer.record(step, STEP, 1.0 / (step + 1))
                writer.flush()
                note(folder, "steps.log")
                time.sleep(self.pause_s)
            writer.metrics(
                Metric(step=self.steps, epoch=1, split=split, name="auprc", value=score(config))
                for split in ("validation", "test")
            )
        note(folder, "finished.log")
        return folder / RUN


def failing(config: TrainConfig, folder: Path) -> Path:
    """Raises for one recipe; trains the others."""
    if config.recipe == "nvfp4":
        raise ArithmeticError(f"no luck with {config.recipe}\nand a second line")
    return Trainer()(config, folder)


def diverging(config: TrainConfig, folder: Path) -> Path:
    """Its run ends as failed, without an exception."""
    writer, _ = begin(config, folder)
    writer.close("failed", "the loss is nan at step 3")
    return folder / RUN


def dies_once(config: TrainConfig, folder: Path) -> Path:
    """Kills its worker at the first attempt, once a step is recorded."""
    if not lines(folder, "started.log"):
        writer, _ = begin(config, folder)
        writer.record(0, STEP, 1.0)
        writer.flush()
        note(folder, "started.log")
        os.kill(os.getpid(), signal.SIGKILL)
    return Trainer()(config, folder)


def dies_always(config: TrainConfig, folder: Path) -> Path:
    note(folder, "started.log")
    os.kill(os.getpid(), signal.SIGKILL)
    return folder / RUN


def dies_after_finishing(config: TrainConfig, folder: Path) -> Path:
    Trainer()(config, folder)
    os.kill(os.getpid(), signal.SIGKILL)
    return folder / RUN


def leaves_nothing(config: TrainConfig, folder: Path) -> Path:
    return folder / RUN


def trains_another(config: TrainConfig, folder: Path) -> Path:
    """Writes the run of a configuration that was not asked for."""
    return Trainer()(TrainConfig(seed=99), folder)


def counts_threads(config: TrainConfig, folder: Path) -> Path:
    import torch

    (folder / "threads.txt").write_text(str(torch.get_num_threads()))
    return Trainer()(config, folder)


@dataclass(frozen=True)
class OnlyOneDies:
    """Kills the worker of one cell at its first attempt."""

    hash: str

    def __call__(self, config: TrainConfig, folder: Path) -> Path:
        run = dies_once if config.hash == self.hash else Trainer()
        return run(config, folder)
