"""What writing and reading a run costs: 600 layers × 40 scalars at every flush.

    python benchmarks/store.py [--folder DIR] [--rounds 5]

Every figure is the median over the rounds, with the range, since other programs disturb a machine.
The folder should be on the disk that runs are written to. ``--quick`` is one short round.
"""

import argparse
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qprobe import open as open_run
from qprobe.records import Batch, Column, RunInfo, RunWriter, create

LAYERS, SCALARS = 600, 40
COLUMNS = [
    Column(f"blocks.{layer}.linear", "input", "summary", f"statistic{scalar}")
    for layer in range(LAYERS)
    for scalar in range(SCALARS)
]
INFO = RunInfo(config={}, environment={})
SYNC_EVERY = 150  # flushes in which a run writes the 32 MB after which SQLite folds in its log
STEP_S = 0.012  # a step of the run whose main thread is watched; each of them is flushed
SLICE_S = 0.25

POLL = """
import sys, time, qprobe
looks, worst = 0, 0.0
with qprobe.open(sys.argv[1]) as reader:
    print("open", flush=True)
    while True:
        start = time.perf_counter()
        reader.series(f"blocks.{looks % 600}.linear", "input", "summary", "statistic7")
        worst = max(worst, time.perf_counter() - start)
        looks += 1
        time.sleep(0.02)
"""

Measured = dict[str, float]


def values(exact: bool) -> list[np.ndarray]:
    """Rows to write; those of float32 kernels are exact in float32, and most statistics are."""
    random = np.random.default_rng(0)
    rows = [random.standard_normal(len(COLUMNS)) for _ in range(16)]
    return [row.astype(np.float32).astype(np.float64) for row in rows] if exact else rows


def write(path: Path, flushes: int, exact: bool) -> Measured:
    """Milliseconds of a flush that returns when its transaction is committed, while one polls."""
    rows, spent = values(exact), []
    with create(path, INFO) as run:
        layout = run.layout(COLUMNS)
        run.flush()
        command = [sys.executable, "-c", POLL, path]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            _first_line(child)
            for step in range(flushes):
                start = time.perf_counter()
                run.records(step, Batch(layout=layout, values=rows[step % len(rows)]))
                run.flush()
                spent.append(1e3 * (time.perf_counter() - start))
            if child.poll() is not None:
                raise SystemExit("the reader that polls has died; its message is above")
            child.kill()
    mean = statistics.mean(spent)
    return {
        "mean ms": mean,
        "median ms": statistics.median(spent),
        "p99 ms": float(np.percentile(spent, 99)),
        "worst ms": max(spent),
        "M scalars/s": len(COLUMNS) / mean / 1e3,
        "bytes/scalar": path.stat().st_size / len(COLUMNS) / flushes,
    }


def read(path: Path) -> Measured:
    """Milliseconds to read the whole history of one column, of many columns in turn."""
    spent = []
    with open_run(path) as reader:
        steps = len(reader.series(*COLUMNS[0]))
        for column in COLUMNS[7 :: len(COLUMNS) // 100]:
            start = time.perf_counter()
            reader.series(*column)
            spent.append(1e3 * (time.perf_counter() - start))
    return {"steps": steps, "median ms": statistics.median(spent), "worst ms": max(spent)}


def floor(path: Path, flushes: int) -> float:
    """Milliseconds to append the same bytes to a plain file, forced to disk as often as a run."""
    data = [row.astype(np.float32).tobytes() for row in values(exact=True)]
    start = time.perf_counter()
    with path.open("wb") as file:
        for step in range(flushes):
            file.write(data[step % len(data)])
            file.flush()
            if step % SYNC_EVERY == SYNC_EVERY - 1:
                os.fsync(file.fileno())
    return 1e3 * (time.perf_counter() - start) / flushes


def small_operations() -> Callable[[], object]:
    """The kind of work a training step's Python does, in torch where it is installed."""
    try:
        import torch
    except ImportError:
        matrix = np.ones((64, 64), np.float32)
        return lambda: np.tanh(matrix @ matrix)
    torch.set_num_threads(1)
    tensor = torch.ones(64, 64)
    return lambda: torch.tanh(tensor @ tensor)


class Slice(NamedTuple):
    """What the main thread did in a short time: its rate, its share of a core, its short waits."""

    per_s: float
    share: float
    short_waits: float


def slowdown(folder: Path, seconds: float) -> Measured:
    """Percent of its small-operation rate that the main thread loses to the writing thread.

    Short slices with a thread that writes and with one that has nothing to do alternate, so that
    what other programs do hits both alike. Where these leave no core for the writing thread, it
    takes one from the main thread: ``taken %`` is what they took while nothing was written.
    ``short waits %`` is the part of the loss in waits of less than 2 ms: those for Python's lock
    are among them, while a scheduler's are longer as a rule.
    """
    work = small_operations()
    with create(folder / "thread.qprobe", INFO, background=True) as run:
        flushes = Flushes(run)
        pairs: list[tuple[Slice, Slice]] = []
        for _ in range(int(seconds / 2 / SLICE_S)):
            pairs.append((watch(work, lambda: None), watch(work, flushes.hand_over)))
            run.flush(wait=True)
    losses = [1 - writing.per_s / idle.per_s for idle, writing in pairs]
    waits = [writing.short_waits - idle.short_waits for idle, writing in pairs]
    return {
        "slowdown %": 100 * statistics.median(losses),
        "taken %": 100 * statistics.median(1 - idle.share for idle, _ in pairs),
        "short waits %": 100 * statistics.median(waits),
        "hand-over ms": statistics.median(flushes.spent),
        "flushes/s": len(flushes.spent) / (len(pairs) * SLICE_S),
    }


class Flushes:
    """Flushes of a run that writes in the background, and what handing each over took."""

    def __init__(self, run: RunWriter) -> None:
        self.spent: list[float] = []
        self._run = run
        self._layout = run.layout(COLUMNS)
        self._rows = values(exact=True)
        run.flush(wait=True)

    def hand_over(self) -> None:
        start, step = time.perf_counter(), len(self.spent)
        row = self._rows[step % len(self._rows)]
        self._run.records(step, Batch(layout=self._layout, values=row))
        self._run.flush()
        self.spent.append(1e3 * (time.perf_counter() - start))


def watch(work: Callable[[], object], before: Callable[[], None]) -> Slice:
    """Call ``work`` for a slice, step by step, with ``before`` between the steps."""
    gaps, used, start = [], 0.0, time.perf_counter()
    while time.perf_counter() - start < SLICE_S:
        before()
        cpu, begin = time.thread_time(), time.perf_counter()
        last = begin
        while last - begin < STEP_S:
            work()
            now = time.perf_counter()
            gaps.append(now - last)
            last = now
        used += time.thread_time() - cpu
    busy, usual = sum(gaps), statistics.median(gaps)
    short = sum(gap - usual for gap in gaps if gap < 2e-3)
    return Slice(len(gaps) / busy, used / busy, short / busy)


def _first_line(child: subprocess.Popen[bytes]) -> None:
    if child.stdout is None or not child.stdout.readline():
        raise SystemExit("the reader that polls did not start; its message is above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rounds, flushes, seconds = (1, 200, 2.0) if options.quick else (options.rounds, 2000, 12.0)
    results: dict[str, list[Measured]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            plain = {"mean ms": floor(folder / "plain", flushes)}
            exact = write(folder / "exact.qprobe", flushes, exact=True)
            ratio = {"x floor": exact["mean ms"] / plain["mean ms"]}
            for what, measured in {
                "append the same bytes to a plain file (floor)": plain,
                "flush, values exact in float32": exact | ratio,
                "flush, values that need float64": write(folder / "wide.qprobe", flushes, False),
                "read a series": read(folder / "exact.qprobe"),
                "main thread beside the writing thread": slowdown(folder, seconds),
            }.items():
                results.setdefault(what, []).append(measured)
    show(results)


GOALS = {
    ("flush, values exact in float32", "mean ms"): "<= 2",
    ("flush, values exact in float32", "M scalars/s"): ">= 10",
    ("flush, values that need float64", "mean ms"): "<= 2",
    ("flush, values that need float64", "M scalars/s"): ">= 10",
    ("read a series", "median ms"): "<= 1",
    ("main thread beside the writing thread", "slowdown %"): "<= 3",
}


def show(results: dict[str, list[Measured]]) -> None:
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, NumPy {np.__version__}; "
        f"{LAYERS} layers x {SCALARS} scalars a flush"
    )
    print(f"{'':46} {'':14} {'median':>9} {'lowest':>9} {'highest':>9}  goal")
    for what, rounds in results.items():
        for name in rounds[0]:
            found = [measured[name] for measured in rounds]
            numbers = (statistics.median(found), min(found), max(found))
            shown = " ".join(f"{number:9.2f}" for number in numbers)
            print(f"{what:46} {name:14} {shown}  {GOALS.get((what, name), '')}")


if __name__ == "__main__":
    main()
