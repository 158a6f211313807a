"""Measures what a step of a training costs, by training a few."""

import contextlib
import statistics
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from qprobe.cli.probing import Probing
from qprobe.engine import Callback, TrainConfig, Training, train
from qprobe.engine.workbench import prepare

#: Steps that are measured, after one that warms up.
_MEASURED = 3


class _EnoughError(Exception):
    """The training was only started to look at its clock."""


class _Clock(Callback):
    """The time of each step, the loading of its batch included."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def begin(self, training: Training) -> None:
        """Start."""
        self._last = time.perf_counter()

    def step(self, training: Training) -> None:
        """Stop, and start again."""
        now = time.perf_counter()
        self.times.append(now - self._last)
        if len(self.times) > _MEASURED:
            raise _EnoughError
        self._last = now


def time_step(config: TrainConfig, probing: Probing | None = None) -> float:
    """Median seconds of a step on one thread, after one step that is not counted.

    Where a training has a single step, that one counts. With probes, what they may take on average
    is added: their budget, or without one what the looks of these few steps took.
    """
    clock, watch = _Clock(), None if probing is None else probing.callback()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.suppress(_EnoughError), tempfile.TemporaryDirectory() as folder:
            callbacks = [clock] if watch is None else [watch, clock]
            train(config, Path(folder, "run"), callbacks=callbacks)
    finally:
        torch.set_num_threads(threads)
    if watch is not None and watch.session is not None:
        report = watch.session.report()
        if report.step_s is not None:
            share = report.expected if report.budget is None else report.budget
            return report.step_s * (1.0 + share)
    return statistics.median(clock.times[1:] or clock.times)


def count_steps(config: TrainConfig) -> int:
    """The steps of the whole training, early stopping aside."""
    return _total(replace(config, seed=0, recipe="bf16"))


@cache
def _total(config: TrainConfig) -> int:
    return prepare(config).total
