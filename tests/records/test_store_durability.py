"""A writing process is killed again and again; what it had flushed is always there, whole."""

import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from sample_runs import INFO, columns

import qprobe
from qprobe.records import Status, create

COLUMNS = 5000  # three segments

WRITE = """
import itertools, sys
import numpy as np
sys.path.insert(0, sys.argv[2])
from sample_runs import columns
from qprobe.records import Batch, Column, Metric, resume
first, background, count = int(sys.argv[3]), sys.argv[4] == "True", int(sys.argv[5])
with resume(sys.argv[1], after_step=first - 1, background=background) as run:
    layout = run.layout(columns(count))
    print("ready", flush=True)
    for step in itertools.count(first):
        run.records(step, Batch(layout=layout, values=np.arange(count) * 0.1 + step))
        run.record(step, Column("", "", "train", "loss"), step / 3)
        run.metrics([Metric(step=step, split="val", name="dice", value=step / 7)])
        run.flush(wait=True)
        print(step, flush=True)
"""


def write_and_kill(
    path: Path, first: int, *, background: bool, flushes: int, after_s: float
) -> int:
    """Let a child write from step ``first``, kill it; the last step that it had acknowledged.

    The kill comes ``after_s`` after so many flushes, so that slow machines are no reason to fail.
    """
    options = [str(first), str(background), str(COLUMNS)]
    command = [sys.executable, "-c", WRITE, path, Path(__file__).parent, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        done = [child.stdout.readline() for _ in range(flushes)]
        time.sleep(after_s)
        child.kill()
        # The last line may be cut off by the kill itself; it then counts for nothing.
        lines = [*done, *child.stdout.read().split("\n")[:-1]]
    return int(lines[-1]) if lines else first - 1


def check(path: Path, acknowledged: int) -> int:
    """Everything acknowledged is there and whole; the number of steps."""
    with closing(sqlite3.connect(path)) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with qprobe.open(path) as reader:
        assert reader.meta.status is Status.INTERRUPTED
        if not reader.columns():  # killed before the first flush
            assert acknowledged == -1
            return 0
        loss = reader.series("", "", "train", "loss")
        steps = list(range(len(loss)))
        assert len(steps) > acknowledged
        assert loss.steps.tolist() == steps
        assert loss.values.tolist() == [step / 3 for step in steps]
        assert [metric.step for metric in reader.metrics()] == steps
        for place in (0, 2047, 2048, 4096, COLUMNS - 1):
            series = reader.series(*columns(COLUMNS)[place])
            assert series.steps.tolist() == steps
            assert series.values.tolist() == [place * 0.1 + step for step in steps]
    return len(steps)


def survive(path: Path, kills: int, seed: int) -> None:
    moments = random.Random(seed)  # noqa: S311 - moments to kill at, no secret
    create(path, INFO).close()
    steps, wasted = 0, 0
    for kill in range(kills):
        background = kill % 2 == 1
        # Going back now and then cuts finished spans.
        first = max(0, steps - 20) if kill % 3 == 2 else steps
        flushes, after_s = moments.randrange(6), moments.uniform(0.0, 0.05)
        acknowledged = write_and_kill(
            path, first, background=background, flushes=flushes, after_s=after_s
        )
        found = check(path, acknowledged)
        wasted += found <= first
        steps = found
    assert steps > kills  # the children did write
    assert wasted <= kills // 2


def test_ten_kills_lose_nothing_that_was_flushed(path: Path):
    survive(path, 10, seed=0)


@pytest.mark.slow
def test_sixty_kills_lose_nothing_that_was_flushed(path: Path):
    survive(path, 60, seed=1)
