"""What the folder of a training holds, and how a training is taken up from it."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from qprobe import records
from qprobe.engine import checkpoint
from qprobe.engine.config import TrainConfig
from qprobe.engine.training import Callback, Training, TrainResult
from qprobe.engine.workbench import Workbench, environment
from qprobe.errors import InputError
from qprobe.records import RunInfo, RunWriter, Status

_log = logging.getLogger(__name__)

RUN, LAST, BEST = "run.qprobe", "last.pt", "best.pt"

#: What of the environment the bits of a result depend on.
_BITS = ("torch", "processor", "device", "precision", "threads")
_COUNTERS = ("best_score", "best_step", "bar", "bar_epoch", "over")


def make(folder: Path) -> None:
    """Create the folder of a training, with those above it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder {folder} cannot be made: {error.strerror}; choose another one."
        ) from error


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Make the folder; if what follows fails before anything is in it, it is gone again."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    make(folder)
    try:
        yield
    except BaseException:
        for one in made:
            with suppress(OSError):  # not empty, or somebody else's by now
                one.rmdir()
        raise


def check(folder: Path, config: TrainConfig, resume: bool) -> None:
    """Refuse a folder in which this training can neither start nor go on."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the training.")
    if not (folder / RUN).exists():
        left = next((name for name in (LAST, BEST) if (folder / name).exists()), None)
        if left:
            raise InputError(
                f"{folder} holds a {left} without its {RUN}; put the run back or choose another "
                "folder."
            )
        return
    if not resume:
        raise InputError(f"{folder} holds a training already; resume it or choose another folder.")
    with records.open(folder / RUN) as run:
        theirs = run.meta.config
        begun = any(len(loss) for _, loss in run.select(probe="training", key="loss"))
    mine = config.as_json()
    changed = [name for name in mine if name not in theirs or theirs[name] != mine[name]]
    if changed:
        name = changed[0]
        raise InputError(
            f"the training in {folder} has {name} = {theirs.get(name)!r}, not {mine[name]!r}; "
            "resume it with its own settings or choose another folder."
        )
    if begun and not (folder / LAST).exists():
        raise InputError(
            f"the training in {folder} has lost its {LAST} and cannot go on; put it back or choose "
            "another folder."
        )


def saved_state(folder: Path, bench: Workbench) -> dict[str, Any] | None:
    """Where to go on, its weights in the model already; ``None`` where nothing was saved yet."""
    if not (folder / LAST).exists():
        return None
    state = checkpoint.load(folder / LAST)
    if state.get("hash") != bench.config.hash:
        raise InputError(
            f"{folder / LAST} is of a training with other settings; put the one of {RUN} back or "
            "choose another folder."
        )
    with checkpoint.understood(folder / LAST):
        bench.model.load_state_dict(state["model"])
        state["step"] = int(state["step"])
    return state


def finished(folder: Path) -> TrainResult | None:
    """The result of a training that is over."""
    if not (folder / RUN).exists():
        return None
    with records.open(folder / RUN) as run:
        if run.meta.status is not Status.FINISHED:
            return None
        test = {metric.name: metric.value for metric in run.metrics(split="test")}
        last = checkpoint.load(folder / LAST)
    with checkpoint.understood(folder / LAST):
        return TrainResult(
            folder=folder,
            status=Status.FINISHED,
            steps=last["step"],
            epochs=last["epoch"],
            best_step=last["counters"]["best_step"],
            best_score=last["counters"]["best_score"],
            test=test,
        )


def writer(bench: Workbench, folder: Path, step: int) -> RunWriter:
    """The run of a training: a new one, or the old one as it was after ``step``."""
    config, here = bench.config, environment(bench)
    if not (folder / RUN).exists():
        info = RunInfo(
            config=config.as_json() | {"hash": config.hash},
            environment=here,
            recipe=config.recipe,
        )
        return records.create(folder / RUN, info)
    with records.open(folder / RUN) as run:
        there = run.meta.environment
    for name in _BITS:
        if there.get(name) != here[name]:
            _log.warning(
                "%s was started with %s %r and goes on with %r: it may differ in the last bits",
                folder, name, there.get(name), here[name],
            )  # fmt: skip
    return records.resume(folder / RUN, after_step=step)


def save(training: Training) -> None:
    """Everything that the next step depends on."""
    bench = training.bench
    training.writer.flush(wait=True)
    content = _about(training) | {
        "optimizer": bench.optimizer.state_dict(),
        "schedule": _plain(bench.schedule.state_dict()),
        "scaler": bench.scaler.state_dict(),
        "loader": bench.train.state_dict(),
        "counters": {name: getattr(training, name) for name in _COUNTERS},
        "rng": torch.random.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "rounding": bench.generator.get_state(),
        "callbacks": _states(training.callbacks),
    }
    checkpoint.save(training.folder / LAST, content)


def save_best(training: Training) -> None:
    """The weights that scored best so far."""
    checkpoint.save(training.folder / BEST, _about(training))


def restore(training: Training, state: Mapping[str, Any]) -> None:
    """Take up a saved state, but for its weights, which are in the model."""
    with checkpoint.understood(training.folder / LAST):
        _restore(training, state)


def _restore(training: Training, state: Mapping[str, Any]) -> None:
    bench = training.bench
    bench.optimizer.load_state_dict(state["optimizer"])
    bench.schedule.load_state_dict(dict(state["schedule"]))
    bench.scaler.load_state_dict(state["scaler"])
    bench.train.load_state_dict(state["loader"])
    training.step, training.epoch = state["step"], state["epoch"]
    for name in _COUNTERS:
        setattr(training, name, state["counters"][name])
    torch.random.set_rng_state(state["rng"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["rng_cuda"])
    bench.generator.set_state(state["rounding"])
    for callback in training.callbacks:
        if callback.name in state.get("callbacks", {}):
            callback.load_state_dict(state["callbacks"][callback.name])


def _about(training: Training) -> dict[str, Any]:
    """The weights and what they are: all that an analysis needs."""
    return {
        "config": training.config.as_json(),
        "hash": training.config.hash,
        "run": training.writer.run,
        "step": training.step,
        "epoch": training.epoch,
        "score": training.best_score,
        "model": training.model.state_dict(),
    }


def _states(callbacks: Sequence[Callback]) -> dict[str, Any]:
    """What callbacks have to remember."""
    states: dict[str, Any] = {}
    for callback in callbacks:
        if not (state := callback.state_dict()):
            continue
        if callback.name in states:
            raise InputError(
                f"two callbacks called {callback.name!r} have a state to save; rename one of them."
            )
        states[callback.name] = state
    return states


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule's state without the functions in it, which are rebuilt."""
    return {name: value for name, value in state.items() if name != "lr_lambdas"} | (
        {"lr_lambdas": [None for _ in state["lr_lambdas"]]} if "lr_lambdas" in state else {}
    )
