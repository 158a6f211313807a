"""A run of 600 layers × 12 measures, finished or growing while others look at it."""

import statistics
import time
from pathlib import Path
from typing import Self

import numpy as np

from qprobe import records
from qprobe.records import Batch, Column, RunInfo, create

LAYERS, MEASURES = 600, 12
STEP_S = 0.01


def write(path: Path, steps: int) -> None:
    columns = [
        Column(f"blocks.{layer // 10}.part{layer % 10}", "input", "moments", f"kurtosis_{key}")
        for layer in range(LAYERS)
        for key in range(MEASURES)
    ]
    random = np.random.default_rng(0)
    with create(path, RunInfo(config={"steps": steps}, environment={}, recipe="nvfp4")) as run:
        layout, own = run.layout(columns), run.layout([Column("", "", "training", "loss")])
        for step in range(steps):
            values = random.lognormal(size=len(columns)).astype(np.float32)
            run.records(step, Batch(layout=layout, values=values))
            run.records(step, Batch(layout=own, values=np.array([1.0 / (step + 1)])))
            run.flush()


class Written:
    """A run that grows by a step every 10 ms of work; its flushes are what is timed."""

    def __init__(self, path: Path) -> None:
        write(path, steps=2)
        self._run = records.resume(path, after_step=1)
        columns = [Column(f"blocks.{layer}", "input", "moments", f"k{key}")
                   for layer in range(LAYERS) for key in range(MEASURES)]  # fmt: skip
        self._layout = self._run.layout(columns)
        self._own = self._run.layout([Column("", "", "training", "loss")])
        self._values = np.random.default_rng(1).lognormal(size=len(columns)).astype(np.float32)
        self._matrix = np.random.default_rng(2).normal(size=(128, 128))
        self._step = 2

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._run.close()

    def go_on(self, turn: tuple[float, float]) -> tuple[float, float]:
        """Mean wall and CPU seconds of a flush over one turn, once the last one has died away."""
        taken = []
        settled = time.perf_counter() + turn[0]
        end = settled + turn[1]
        while time.perf_counter() < end:
            self._train()
            self._run.records(self._step, Batch(layout=self._layout, values=self._values))
            self._run.records(self._step, Batch(layout=self._own, values=np.array([1.0])))
            began = time.perf_counter(), time.thread_time()
            self._run.flush()
            if began[0] >= settled:
                taken.append((time.perf_counter() - began[0], time.thread_time() - began[1]))
            self._step += 1
        wall, computed = zip(*taken, strict=True)
        return statistics.fmean(wall), statistics.fmean(computed)

    def _train(self) -> None:
        """Compute: a core that slept is cold, and company would keep it warm."""
        end = time.perf_counter() + STEP_S
        while time.perf_counter() < end:
            self._matrix @ self._matrix
