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

from qprobe import records
from qprobe.engine import checkpoint
from qprobe.engine import folder as folders
from qprobe.engine.config import OnNonFinite, Schedule, TrainConfig
from qprobe.engine.data import Batch
from qprobe.engine.evaluation import Evaluation, evaluate
from qprobe.engine.interrupt import Interrupt
from qprobe.engine.optimizer_step import optimizer_step
from qprobe.engine.results import test_results, validation_metrics
from qprobe.engine.training import Callback, Training, TrainResult
from qprobe.engine.workbench import prepare
from qprobe.errors import InputError
from qprobe.records import Column, Status

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
    folders.check(folder, config, resume)
    finished = folders.finished(folder)
    if finished is not None:
        return finished
    devices = range(torch.cuda.device_count())
    with folders.making(folder), torch.random.fork_rng(devices), Interrupt() as interrupt:
        torch.manual_seed(config.seed)
        bench = prepare(config)
        state = folders.saved_state(folder, bench)
        training = Training(
            bench=bench,
            folder=folder,
            writer=folders.writer(bench, folder, 0 if state is None else state["step"]),
            callbacks=callbacks,
        )
        return _run(training, state, interrupt)


def _run(training: Training, state: Mapping[str, Any] | None, interrupt: Interrupt) -> TrainResult:
    """Train from a saved state, or the start, until it is over; close the run as it ended."""
    status, test = Status.FAILED, dict[str, float]()
    with training.writer:
        try:
            if state is None:
                folders.save(training)
            else:
                folders.restore(training, state)
            for callback in training.callbacks:
                callback.begin(training)
            while not (training.over or training.failure or interrupt):
                _epoch(training, interrupt)
            if training.over and not training.failure:
                test = _test(training)
                status = Status.FINISHED
            elif not training.failure:
                status = Status.INTERRUPTED
        except KeyboardInterrupt:
            status = Status.INTERRUPTED
            raise
        finally:
            for callback in training.callbacks:
                callback.end(training, status)
        stopped = f"interrupted after step {training.step}"
        training.writer.close(status, stopped if status is Status.INTERRUPTED else training.failure)
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
        if training.nonfinite and training.config.on_nonfinite is OnNonFinite.STOP:
            training.failure = f"{training.nonfinite} at step {training.step}"
            return
        if training.step == training.total:
            break
        # The last batch of an epoch is followed by a validation, which saves.
        if bench.train.state_dict()["batch"] < len(bench.train):
            if interrupt:
                folders.save(training)
                return
            if training.step % training.config.checkpoint_every == 0:
                folders.save(training)
        asked = time.perf_counter()
    _validate(training)


def _step(training: Training, batch: Batch) -> None:
    """One optimizer step, and what follows from it."""

    def seen(loss: float) -> None:
        training.step += 1
        training.loss = loss
        for callback in training.callbacks:
            callback.gradients(training)

    taken = optimizer_step(training.bench, batch, seen)
    training.grad_norm, training.nonfinite = taken.grad_norm, taken.nonfinite
    if training.config.schedule is not Schedule.PLATEAU:
        training.bench.schedule.step()


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
        folders.save_best(training)
    if score > training.bar + config.min_delta:
        training.bar, training.bar_epoch = score, training.epoch
    if config.schedule is Schedule.PLATEAU:
        bench.schedule.step(score)  # type: ignore[arg-type]
    waited = training.epoch - max(training.bar_epoch, config.grace)
    training.over = training.step >= training.total or waited >= config.patience
    folders.save(training)
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
    best = checkpoint.load(training.folder / folders.BEST, bench.device)
    with checkpoint.understood(training.folder / folders.BEST):
        bench.model.load_state_dict(best["model"])
    with bench.autocast():
        evaluation = evaluate(bench.model, bench.test, bench.device, show=True)
    return test_results(training.writer, evaluation, training.step, training.epoch)


def _flush(training: Training, *, force: bool) -> None:
    now = time.monotonic()
    if force or now - training.flushed_s > _FLUSH_S:
        training.writer.flush()
        training.flushed_s = now
