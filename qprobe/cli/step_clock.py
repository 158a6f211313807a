"""Measures what a step of a training costs, by training a few."""

import contextlib
import statistics
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

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


def time_step(config: TrainConfig) -> float:
    """Median seconds of a step on one thread, after one step that is not counted.

    Where a training has a single step, that one counts.
    """
    clock = _Clock()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.suppress(_EnoughError), tempfile.TemporaryDirectory() as folder:
            train(config, Path(folder, "run"), callbacks=[clock])
    finally:
        torch.set_num_threads(threads)
    return statistics.median(clock.times[1:] or clock.times)


def count_steps(config: TrainConfig) -> int:
    """The steps of the whole training, early stopping aside."""
    return _total(replace(config, seed=0, recipe="bf16"))


@cache
def _total(config: TrainConfig) -> int:
    return prepare(config).total
