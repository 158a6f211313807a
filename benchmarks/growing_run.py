"""A run of 600 layers × 12 measures, finished or growing while others look at it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from qprobe import records
from qprobe.records import Batch, Column, RunInfo, create
from qprobe.records.layout import SPAN

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Flush:
    """One flush: its step, when, how long and how much CPU time it took, what company computed
    between the last one and it, and a kind; those of one kind write the same."""

    step: int
    at_s: float
    wall_s: float
    cpu_s: float
    company_s: float
    kind: int


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

    def go_on(self, seconds: float, company: Callable[[], float] = lambda: 0.0) -> list[Flush]:
        """Every flush of so many seconds, and how much ``company`` counts from one to the next."""
        found, end = [], time.perf_counter() + seconds
        counted, folded = company(), self._folded()
        while time.perf_counter() < end:
            self._train()
            self._run.records(self._step, Batch(layout=self._layout, values=self._values))
            self._run.records(self._step, Batch(layout=self._own, values=np.array([1.0])))
            since = company() - counted
            began = time.perf_counter(), time.thread_time()
            self._run.flush()
            ended = time.perf_counter(), time.thread_time()
            counted = company()
            earlier, folded = folded, self._folded()
            kind = self._step % SPAN if folded == earlier else SPAN
            found.append(Flush(
                step=self._step, at_s=began[0], wall_s=ended[0] - began[0],
                cpu_s=ended[1] - began[1], company_s=since, kind=kind,
            ))  # fmt: skip
            self._step += 1
        return found

    def _folded(self) -> int:
        """Changes when the log is folded into the file, which takes longer than anything else."""
        return self._run.path.stat().st_mtime_ns

    def _train(self) -> None:
        """Compute: a core that slept is cold, and company would keep it warm."""
        end = time.perf_counter() + STEP_S
        while time.perf_counter() < end:
            self._matrix @ self._matrix
