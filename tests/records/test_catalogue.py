from pathlib import Path

import numpy as np
import pytest
from sample_runs import INFO, columns, ramp

import qprobe
from qprobe.errors import InputError
from qprobe.records import Batch, Column, RunWriter, Sample, create, resume

A, B, C = columns(3)


def test_the_same_columns_are_the_same_layout(writer: RunWriter):
    first = writer.layout([A, B])
    assert writer.layout([A, B]) is first
    assert writer.layout([B, A]) is not first


@pytest.mark.parametrize(("wanted", "message"), [([], "no columns"), ([A, B, A], f"{A} twice")])
def test_a_layout_names_each_column_once(writer: RunWriter, wanted: list[Column], message: str):
    with pytest.raises(InputError, match=message):
        writer.layout(wanted)


def test_layouts_may_share_columns_at_different_steps(path: Path):
    with create(path, INFO) as run:
        first, second, apart = run.layout([A, B]), run.layout([B, C]), run.layout(columns(1, "x"))
        for step in range(0, 300, 2):
            run.records(step, Batch(layout=first, values=np.full(2, float(step))))
            run.records(step + 1, Batch(layout=second, values=np.full(2, float(step + 1))))
            run.records(step, Batch(layout=apart, values=np.zeros(1)))
            run.flush()
        with pytest.raises(InputError, match=r"step 299 of the layout .* comes after step 299"):
            run.records(299, Batch(layout=first, values=np.zeros(2)))
        run.records(299, Batch(layout=apart, values=np.zeros(1)))
    with qprobe.open(path) as reader:
        assert reader.series(*B).steps.tolist() == list(range(300))
        assert reader.series(*B).values.tolist() == list(range(300))
        assert reader.series(*A).steps.tolist() == list(range(0, 300, 2))
        assert [c for c, _ in reader.select()] == [A, B, C, *columns(1, "x")]


def test_what_layouts_share_is_known_after_a_resume(path: Path):
    with create(path, INFO) as run:
        run.records(5, Batch(layout=run.layout([A, B]), values=np.zeros(2)))
    with resume(path) as run, pytest.raises(InputError, match="after step 5"):
        run.records(5, Batch(layout=run.layout([B, C]), values=np.zeros(2)))


def test_a_column_is_recorded_in_one_way(writer: RunWriter):
    writer.layout([A, B])
    with pytest.raises(InputError, match=f"{B} is in a layout"):
        writer.record(0, B, 1.0)
    writer.record(0, C, 1.0)
    with pytest.raises(InputError, match=f"{C} is recorded by itself"):
        writer.layout([C])


def test_a_scalar_recorded_twice_is_named(path: Path):
    with create(path, INFO) as run:
        run.record(3, A, 1.0)
        run.flush()
        run.record(4, A, 1.0)
        run.record(3, A, 2.0)
        with pytest.raises(InputError, match=f"step 3 of {A} was recorded twice"):
            run.flush()
    with qprobe.open(path) as reader:  # the window is not there, and not half there
        assert reader.series(*A).steps.tolist() == [3]


def test_a_layout_of_another_run_is_refused(writer: RunWriter, tmp_path: Path):
    with create(tmp_path / "other.qprobe", INFO) as other:
        layout = other.layout([A])
    with pytest.raises(InputError, match=r"not of .*run\.qprobe; get one from"):
        writer.records(0, Batch(layout=layout, values=np.zeros(1)))


def test_a_sample_has_one_patient(path: Path):
    first = Sample(step=0, split="val", sample="s", name="dice", value=1.0, patient="p1")
    second = Sample(step=1, split="val", sample="s", name="dice", value=1.0, patient="p2")
    with create(path, INFO) as run:
        run.samples([first])
        with pytest.raises(InputError, match=r"'s' of 'val' .* 'p1' and now of 'p2'"):
            run.samples([second])
    with resume(path) as run, pytest.raises(InputError, match="'p1' and now of 'p2'"):
        run.samples([second])


def test_numbers_go_on_after_a_resume(path: Path):
    with create(path, INFO) as run:
        ramp(run, range(3))
    with resume(path) as run:
        run.record(0, Column("new", "", "", ""), 2.0)
    with qprobe.open(path) as reader:
        assert len(reader.columns()) == 11
        assert reader.series("new", "", "", "").values.tolist() == [2.0]
