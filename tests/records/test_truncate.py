from pathlib import Path

import numpy as np
import pytest
from sample_runs import INFO, columns, ramp

import qprobe
from qprobe.errors import InputError
from qprobe.records import Array, Batch, Column, Metric, Sample, create, resume

LOSS = Column("", "", "train", "loss")


@pytest.mark.parametrize("last", [-1, 0, 62, 63, 64, 100, 127, 128, 149, 500])
def test_a_run_resumed_after_a_step_has_every_step_once(path: Path, last: int):
    with create(path, INFO) as run:
        ramp(run, range(150), count=40)
        for step in range(150):
            run.record(step, LOSS, step)
            run.metrics([Metric(step=step, split="val", name="dice", value=step)])
            run.samples([Sample(step=step, split="val", sample="s", name="dice", value=step)])
            run.arrays([Array(step=step, site="", role="", probe="", key="", data=np.array(step))])
    kept = list(range(min(last + 1, 150)))
    with resume(path, after_step=last) as run:
        with qprobe.open(path) as reader:
            for column in (columns(40)[0], columns(40)[39]):
                series = reader.series(*column)
                offset = columns(40).index(column)
                assert series.steps.tolist() == kept
                assert series.values.tolist() == [1000.0 * step + offset for step in kept]
            assert [m.step for m in reader.metrics()] == kept
            assert [s.step for s in reader.samples()] == kept
            assert [a.data.item() for a in reader.arrays()] == kept
            assert [r.value for r in reader.records(probe="train")] == kept
        ramp(run, range(len(kept), 200), count=40)
    with qprobe.open(path) as reader:
        assert reader.series(*columns(40)[17]).steps.tolist() == list(range(200))


def test_missing_values_survive_the_cut(path: Path):
    with create(path, INFO) as run:
        layout = run.layout(columns(3))
        for step in range(64):
            there = np.array([True, step % 2 == 0, step % 3 == 0])
            run.records(step, Batch(layout=layout, values=np.full(3, 0.1), present=there))
            run.flush()
    resume(path, after_step=10).close()
    with qprobe.open(path) as reader:
        steps = [series.steps.tolist() for _, series in reader.select()]
    assert steps == [list(range(11)), [0, 2, 4, 6, 8, 10], [0, 3, 6, 9]]


def test_without_a_cut_an_old_step_is_refused(path: Path):
    with create(path, INFO) as run:
        ramp(run, range(70))
    with (
        resume(path) as run,
        pytest.raises(InputError, match=r"step 69 .* after step 69 .*resume the run from"),
    ):
        ramp(run, range(69, 70))
