import json
import math
import os
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_runs import INFO, columns, finding, ramp

import qprobe
from qprobe.errors import InputError, QprobeError
from qprobe.records import (
    Array,
    Batch,
    Column,
    Metric,
    Record,
    Role,
    RunInfo,
    RunWriter,
    Sample,
    Status,
    create,
    resume,
)

Start = Callable[..., RunWriter]
LOSS = Column("", "", "train", "loss")


@pytest.mark.parametrize("background", [False, True])
def test_everything_comes_back(start: Start, path: Path, background: bool):
    run = start(background=background)
    layout = run.layout(columns(10))
    run.records(7, Batch(layout=layout, values=np.arange(10.0)))
    run.record(7, LOSS, 0.25)
    run.emit([Record("", 8, *LOSS, 0.125), Record(run.run, 9, *LOSS, 0.0625)])
    metric = Metric(step=7, epoch=1, split="val", name="dice", value=0.75)
    scores = [
        Sample(step=7, split="val", sample=f"s{i}", name="dice", value=i / 4, patient=f"p{i // 2}")
        for i in range(4)
    ]
    image = np.arange(6, dtype=">i2").reshape(2, 3)
    run.metrics([metric])
    run.samples(scores)
    run.arrays([Array(step=7, site="a", role="b", probe="c", key="d", data=image)])
    run.findings([finding(), finding(claim="second", n=3, low=-math.inf, high=math.inf)])
    image[:] = 0
    run.close()
    with qprobe.open(path) as reader:
        assert reader.series(*columns(10)[3]).values.tolist() == [3.0]
        assert reader.series(*LOSS).steps.tolist() == [7, 8, 9]
        assert reader.series(*LOSS).values.tolist() == [0.25, 0.125, 0.0625]
        assert reader.metrics() == [metric]
        assert reader.samples() == scores
        (array,) = reader.arrays()
        assert (array.step, tuple(array.column)) == (7, ("a", "b", "c", "d"))
        assert array.data.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert reader.findings() == [
            finding(),
            finding(claim="second", n=3, low=-math.inf, high=math.inf),
        ]
        meta = reader.meta
    assert (meta.status, meta.reason, meta.recipe) == (Status.FINISHED, None, "nvfp4")
    assert (meta.config, meta.environment) == (INFO.config, INFO.environment)
    assert meta.run == run.run


def test_nan_infinity_and_missing_are_three_things(start: Start, path: Path):
    run = start()
    layout = run.layout(columns(4))
    odd = np.array([np.nan, np.inf, -np.inf, 5.0])
    there = np.array([True, True, True, False])
    run.records(0, Batch(layout=layout, values=odd, present=there))
    for step, value in enumerate(odd[:3]):
        run.record(step, LOSS, value)
        run.metrics([Metric(step=step, split="val", name="loss", value=value)])
        run.samples([Sample(step=step, split="val", sample="s", name="dice", value=value)])
    run.close()
    with qprobe.open(path) as reader:
        got = [reader.series(*column).values.tolist() for column in columns(4)]
        assert repr(got) == "[[nan], [inf], [-inf], []]"
        assert repr(reader.series(*LOSS).values.tolist()) == "[nan, inf, -inf]"
        assert repr([m.value for m in reader.metrics()]) == "[nan, inf, -inf]"
        assert repr([s.value for s in reader.samples()]) == "[nan, inf, -inf]"
    with sqlite3.connect(path) as plain:
        assert plain.execute("SELECT step, value FROM scalars").fetchall() == [
            (0, None),
            (1, math.inf),
            (2, -math.inf),
        ]


def test_values_are_copied_at_once(start: Start, path: Path):
    run = start(background=True)
    layout = run.layout(columns(3))
    values, there = np.ones(3), np.array([True, True, False])
    run.records(0, Batch(layout=layout, values=values, present=there))
    values[:], there[:] = -1, False
    run.close()
    with qprobe.open(path) as reader:
        assert [s.values.tolist() for _, s in reader.select()] == [[1.0], [1.0]]


def test_nothing_is_there_before_the_flush_and_everything_after(start: Start, path: Path):
    run = start()
    with qprobe.open(path) as reader:
        run.record(0, LOSS, 1.0)
        run.metrics([Metric(step=0, split="val", name="loss", value=1.0)])
        assert reader.columns() == []
        run.flush()
        assert reader.columns() == [LOSS]
        assert len(reader.metrics()) == 1


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (None, Status.FINISHED, None),
        (KeyboardInterrupt(), Status.INTERRUPTED, "interrupted from the keyboard"),
        (ValueError("loss is nan"), Status.FAILED, "ValueError: loss is nan"),
    ],
)
def test_leaving_the_block_sets_the_status(
    path: Path, error: BaseException | None, status: Status, reason: str | None
):
    try:
        with create(path, INFO) as run:
            run.record(0, LOSS, 1.0)
            with qprobe.open(path) as reader:
                assert reader.meta.status is Status.RUNNING
            if error is not None:
                raise error
    except (KeyboardInterrupt, ValueError):
        assert error is not None
    with qprobe.open(path) as reader:
        assert (reader.meta.status, reader.meta.reason) == (status, reason)
        assert len(reader.series(*LOSS)) == 1


def test_the_status_can_be_told_midway(start: Start, path: Path):
    run = start()
    run.status(Status.FAILED, "the loss is not finite at step 3")
    run.flush()
    with qprobe.open(path) as reader:
        assert reader.meta.reason == "the loss is not finite at step 3"


def test_closing_leaves_nothing_beside_the_file(path: Path):
    with create(path, INFO) as run:
        ramp(run, range(70))
    assert [entry.name for entry in path.parent.iterdir()] == ["run.qprobe"]
    assert path.read_bytes()[18:20] == b"\x01\x01"  # a plain journal: opens on read-only media


def test_a_closed_writer_says_so(path: Path):
    run = create(path, INFO)
    run.close()
    run.close()
    with pytest.raises(QprobeError, match=r"run\.qprobe is closed; resume"):
        run.record(0, LOSS, 1.0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking with threads, on 3.12
def test_a_forked_child_cannot_write_and_does_not_close(start: Start, path: Path):
    run = start(background=True)
    run.record(0, LOSS, 1.0)
    run.flush(wait=True)
    child = os.fork()
    if child == 0:
        try:
            run.record(1, LOSS, 1.0)
        except QprobeError as error:
            run.close()
            os._exit(0 if "was forked" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    run.record(1, LOSS, 1.0)
    run.flush(wait=True)
    with qprobe.open(path) as reader:
        assert reader.meta.status is Status.RUNNING
        assert len(reader.series(*LOSS)) == 2


@pytest.mark.parametrize("step", [-1, 1.5, True, "3", None])
def test_a_step_is_a_whole_number(writer: RunWriter, step: object):
    layout = writer.layout(columns(1))
    with pytest.raises(InputError, match="a step is a whole number from 0"):
        writer.record(step, LOSS, 0.0)  # type: ignore[arg-type]
    wrong: dict[str, Any] = {"step": step, "split": "val", "name": "dice", "value": 0.5}
    with pytest.raises(InputError, match="a step is a whole number from 0"):
        writer.metrics([Metric(**wrong)])
    with pytest.raises(InputError, match="a step is a whole number from 0"):
        writer.samples([Sample(sample="s", **wrong)])
    with pytest.raises(InputError, match="a step is a whole number from 0"):
        writer.records(step, Batch(layout=layout, values=np.zeros(1)))  # type: ignore[arg-type]


def test_a_record_of_another_run_is_refused(writer: RunWriter):
    with pytest.raises(InputError, match="is of run 'elsewhere'"):
        writer.emit([Record("elsewhere", 0, *LOSS, 1.0)])


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_a_config_that_is_not_json_leaves_no_file(path: Path, value: object):
    with pytest.raises(InputError, match="the config of a run cannot be written as JSON"):
        create(path, RunInfo(config={"lr": value}, environment={}))  # type: ignore[dict-item]
    assert not path.exists()
    create(path, INFO).close()
    assert json.loads(json.dumps(dict(INFO.config))) == INFO.config


def test_an_existing_run_is_never_overwritten(path: Path):
    create(path, INFO).close()
    with pytest.raises(InputError, match="exists already"):
        create(path, INFO)


def test_a_second_writer_is_refused_by_name(start: Start, path: Path):
    start()
    with pytest.raises(InputError, match=rf"being written by process {os.getpid()} on"):
        resume(path)
    with pytest.raises(InputError, match=rf"being written by process {os.getpid()} on"):
        create(path, INFO)


@pytest.mark.parametrize("how", ["create", "resume"])
def test_a_network_file_system_is_refused_with_the_reason(path: Path, how: str):
    if how == "resume":
        create(path, INFO).close()
    before = sorted(path.parent.iterdir())
    start = partial(create, path, INFO) if how == "create" else partial(resume, path)
    with pytest.raises(InputError, match=r"network file system \(nfs4\).*write-ahead log"):
        start(file_system=lambda place: "nfs4")
    assert sorted(path.parent.iterdir()) == before


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="none is not a folder; create it"):
        create(tmp_path / "none" / "run.qprobe", INFO)


def test_resuming_goes_on_where_it_was(path: Path):
    with create(path, INFO) as run:
        ramp(run, range(100))
        name = run.run
    with resume(path) as run:
        assert run.run == name
        with qprobe.open(path) as reader:
            assert reader.meta.status is Status.RUNNING
        ramp(run, range(100, 140))
    with qprobe.open(path) as reader:
        series = reader.series(*columns(10)[9])
        assert series.steps.tolist() == list(range(140))
        assert series.values.tolist() == [1000.0 * step + 9 for step in range(140)]
        assert len(reader.columns()) == 10


def test_resuming_often_still_transposes(path: Path):
    create(path, INFO).close()
    for start in range(0, 300, 30):  # never a whole span at once
        with resume(path) as run:
            ramp(run, range(start, start + 30))
    with sqlite3.connect(path) as plain:
        assert plain.execute("SELECT count(*) FROM live").fetchone()[0] == 300 % 64


def test_an_interrupted_flush_ends_the_writing(
    start: Start, path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = start()
    ramp(run, range(5))
    run.record(5, LOSS, 1.0)

    def interrupt(window: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run._committer, "commit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.flush()
    monkeypatch.undo()
    with pytest.raises(QprobeError, match="was interrupted"):
        run.record(6, LOSS, 1.0)
    run.close()
    with qprobe.open(path) as reader:
        assert reader.meta.status is Status.INTERRUPTED
        assert [len(series) for _, series in reader.select()] == [5] * 10


def test_numbers_of_numpy_and_roles_are_taken(path: Path):
    number: dict[str, Any] = {"value": np.float32(0.5), "step": np.int64(3), "epoch": np.int32(1)}
    column = Column("head", Role.INPUT, "summary", "kurtosis")
    with create(path, INFO) as run:
        run.record(np.int64(3), column, np.float32(0.5))
        run.records(np.int64(3), Batch(layout=run.layout(columns(2)), values=np.ones(2, "f4")))
        run.metrics([Metric(split="val", name="dice", **number)])
        run.samples([Sample(split="val", sample="s", name="dice", **number)])
    with qprobe.open(path) as reader:
        assert reader.series("head", "input", "summary", "kurtosis").values.tolist() == [0.5]
        assert (reader.metrics()[0].value, reader.metrics()[0].epoch) == (0.5, 1)
        assert (reader.samples()[0].value, reader.samples()[0].step) == (0.5, 3)


@pytest.mark.parametrize("part", [None, 3])
def test_a_column_is_made_of_texts(writer: RunWriter, part: Any):
    with pytest.raises(InputError, match="has a part that is no text; give site, role"):
        writer.record(0, Column("head", "input", "summary", part), 1.0)
    writer.record(0, Column("head", "input", "summary", ""), 1.0)
