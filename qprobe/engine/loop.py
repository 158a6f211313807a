"""Train one model under one recipe, from a configuration to a run file and two checkpoints.

The folder of a training holds ``run.qprobe`` (everything measured), ``last.pt`` (where to go on)
and ``best.pt`` (the weights that scored best on validation data). Going on from ``last.pt`` gives,
bit for bit, what never having stopped would have given.
"""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qprobe import records
from qprobe.engine import checkpoint
from qprobe.engine.config import OnNonFinite, Schedule, TrainConfig
from qprobe.engine.data import Batch
from qprobe.engine.evaluation import Evaluation, evaluate, training_loss
from qprobe.engine.interrupt import Interrupt
from qprobe.engine.results import test_results, validation_metrics
from qprobe.engine.training import Callback, Training, TrainResult
from qprobe.engine.workbench import Workbench, environment, prepare
from qprobe.errors import InputError
from qprobe.records import Column, RunInfo, RunWriter, Status

RUN, LAST, BEST = "run.qprobe", "last.pt", "best.pt"

#: What every step records, with no site: it is about the whole model.
_KEYS = ("loss", "lr", "grad_norm", "step_s", "data_s")
COLUMNS = tuple(Column("", "", "training", key) for key in _KEYS)
#: Seconds between two flushes of the run file: what a sudden death may cost.
_FLUSH_S = 1.0


def train(
    config: TrainConfig,
    folder: Path,
    *,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
) -> TrainResult:
    """Train, and leave a run and checkpoints in ``folder``.

    With ``resume`` a training in ``folder`` is taken up where it was left, or returned if it is
    finished, and started if there is none; without it, a folder that holds a run is refused.
    Ctrl-C finishes the step, saves and returns a result with status *interrupted*. The global
    random state is the same before and after.
    """
    config = config.resolved()
    _check_folder(folder, config, resume)
    finished = _finished(folder)
    if finished is not None:
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices), Interrupt() as interrupt:
        torch.manual_seed(config.seed)
        bench = prepare(config)
        state = checkpoint.load(folder / LAST) if (folder / LAST).exists() else None
        training = Training(
            bench=bench,
            folder=folder,
            writer=_writer(bench, folder, 0 if state is None else state["step"]),
            callbacks=callbacks,
        )
        if state is None:
            _save(training)
        else:
            _restore(training, state)
        return _run(training, interrupt)


def _run(training: Training, interrupt: Interrupt) -> TrainResult:
    """Train until it is over, and close the run as it ended."""
    status = Status.FAILED
    test: dict[str, float] = {}
    with training.writer:
        try:
            for callback in training.callbacks:
                callback.begin(training)
            while not (training.over or training.failure or interrupt):
                _epoch(training, interrupt)
            if training.failure:
                training.writer.close(Status.FAILED, training.failure)
            elif not training.over:
                status = Status.INTERRUPTED
                training.writer.close(status, f"interrupted after step {training.step}")
            else:
                test = _test(training)
                status = Status.FINISHED
                training.writer.close(status)
        finally:
            for callback in training.callbacks:
                callback.end(training, status)
    return TrainResult(
        folder=training.folder,
        status=status,
        steps=training.step,
        epochs=training.epoch,
        best_step=training.best_step,
        best_score=training.best_score,
        test=test,
        reason=training.failure,
    )


def _epoch(training: Training, interrupt: Interrupt) -> None:
    """What is left of an epoch, and its validation; left early when there is a reason to."""
    bench = training.bench
    layout = training.writer.layout(COLUMNS)
    asked = time.perf_counter()
    for batch in bench.train:
        began = time.perf_counter()
        lr = training.lr
        _step(training, batch)
        ended = time.perf_counter()
        values = (training.loss, lr, training.grad_norm, ended - began, began - asked)
        training.writer.records(
            training.step, records.Batch(layout=layout, values=np.array(values))
        )
        _flush(training, force=False)
        for callback in training.callbacks:
            callback.step(training)
        if not math.isfinite(training.loss) and training.config.on_nonfinite is OnNonFinite.STOP:
            training.failure = f"the loss is {training.loss} at step {training.step}"
            return
        if training.step == training.total:
            break
        # The last batch of an epoch is followed by a validation, which saves.
        if bench.train.state_dict()["batch"] < len(bench.train):
            if interrupt:
                _save(training)
                return
            if training.step % training.config.checkpoint_every == 0:
                _save(training)
        asked = time.perf_counter()
    _validate(training)


def _step(training: Training, batch: Batch) -> None:
    """One optimizer step, in as many parts as gradients are accumulated over."""
    bench, config = training.bench, training.config
    bench.model.train()
    bench.optimizer.zero_grad(set_to_none=True)
    loss = 0.0
    images, masks = batch.image.to(bench.device), batch.mask.to(bench.device)
    for image, mask in zip(
        images.chunk(config.accumulate), masks.chunk(config.accumulate), strict=True
    ):
        with bench.autocast():
            share = training_loss(bench.model(image), mask) * (len(image) / len(batch))
        bench.scaler.scale(share).backward()  # type: ignore[no-untyped-call]
        loss += float(share.detach())
    training.step += 1
    training.loss = loss
    bench.scaler.unscale_(bench.optimizer)
    limit = math.inf if config.clip is None else config.clip
    norm = nn.utils.clip_grad_norm_(bench.model.parameters(), limit)
    training.grad_norm = float(norm)
    if math.isfinite(loss):
        bench.scaler.step(bench.optimizer)
    bench.scaler.update()
    if config.schedule is not Schedule.PLATEAU:
        bench.schedule.step()


def _validate(training: Training) -> None:
    """Score, keep the best weights, move the schedule, decide whether it is over, save."""
    bench, config = training.bench, training.config
    with bench.autocast():
        evaluation = evaluate(bench.model, bench.validation, bench.device, show=False)
    scores = evaluation.pooled()
    score = _score(evaluation, scores)
    training.epoch += 1
    training.writer.metrics(validation_metrics(evaluation, training.step, training.epoch))
    _flush(training, force=True)
    if score > training.best_score or training.best_step == 0:
        training.best_score, training.best_step = score, training.step
        checkpoint.save(training.folder / BEST, _about(training))
    if score > training.bar + config.min_delta:
        training.bar, training.bar_epoch = score, training.epoch
    if config.schedule is Schedule.PLATEAU:
        bench.schedule.step(score)  # type: ignore[arg-type]
    waited = training.epoch - max(training.bar_epoch, config.grace)
    training.over = training.step >= training.total or waited >= config.patience
    _save(training)
    for callback in training.callbacks:
        callback.epoch(training, scores)


def _score(evaluation: Evaluation, scores: Mapping[str, float | None]) -> float:
    """What checkpoints and schedules go by: average precision, −∞ where logits are not finite."""
    if not evaluation.classes:
        return -math.inf
    score = scores["auprc"]
    if score is None:
        raise InputError(
            "the validation set has no foreground at all, so nothing can be scored; "
            "give validation more patients."
        )
    return score


def _test(training: Training) -> dict[str, float]:
    """Score the best weights on the test set; written in one piece with the status *finished*."""
    bench = training.bench
    best = checkpoint.load(training.folder / BEST, bench.device)
    bench.model.load_state_dict(best["model"])
    with bench.autocast():
        evaluation = evaluate(bench.model, bench.test, bench.device, show=True)
    return test_results(training.writer, evaluation, training.step, training.epoch)


def _flush(training: Training, *, force: bool) -> None:
    now = time.monotonic()
    if force or now - training.flushed_s > _FLUSH_S:
        training.writer.flush()
        training.flushed_s = now


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


_COUNTERS = ("best_score", "best_step", "bar", "bar_epoch", "over")


def _save(training: Training) -> None:
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
    }
    checkpoint.save(training.folder / LAST, content)


def _restore(training: Training, state: Mapping[str, Any]) -> None:
    bench = training.bench
    bench.model.load_state_dict(state["model"])
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


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule's state without the functions in it, which are rebuilt."""
    return {name: value for name, value in state.items() if name != "lr_lambdas"} | (
        {"lr_lambdas": [None for _ in state["lr_lambdas"]]} if "lr_lambdas" in state else {}
    )


def _check_folder(folder: Path, config: TrainConfig, resume: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the training.")
    if not (folder / RUN).exists():
        return
    if not resume:
        raise InputError(f"{folder} holds a training already; resume it or choose another folder.")
    theirs = records.open(folder / RUN).meta.config
    mine = config.as_json()
    changed = [name for name in mine if theirs.get(name) != mine[name]]
    if changed:
        name = changed[0]
        raise InputError(
            f"the training in {folder} has {name} = {theirs.get(name)!r}, not {mine[name]!r}; "
            "resume it with its own settings or choose another folder."
        )


def _finished(folder: Path) -> TrainResult | None:
    """The result of a training that is over."""
    if not (folder / RUN).exists():
        return None
    with records.open(folder / RUN) as run:
        if run.meta.status is not Status.FINISHED:
            return None
        test = {metric.name: metric.value for metric in run.metrics(split="test")}
        last = checkpoint.load(folder / LAST)
    return TrainResult(
        folder=folder,
        status=Status.FINISHED,
        steps=last["step"],
        epochs=last["epoch"],
        best_step=last["counters"]["best_step"],
        best_score=last["counters"]["best_score"],
        test=test,
    )


def _writer(bench: Workbench, folder: Path, step: int) -> RunWriter:
    if (folder / RUN).exists():
        return records.resume(folder / RUN, after_step=step)
    config = bench.config
    info = RunInfo(
        config=config.as_json() | {"hash": config.hash},
        environment=environment(bench),
        recipe=config.recipe,
    )
    return records.create(folder / RUN, info)
