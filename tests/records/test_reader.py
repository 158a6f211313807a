import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sample_runs import INFO, columns, ramp

import qprobe
from qprobe.errors import InputError, QprobeError
from qprobe.records import Array, Batch, Column, Metric, RunReader, Sample, Status, create
from qprobe.records.layout import SPAN


@pytest.fixture
def reader(path: Path) -> Iterator[RunReader]:
    with create(path, INFO) as run:
        ramp(run, range(0, 100, 5))
        for step in (0, 50):
            run.record(step, Column("head", "", "train", "loss"), step / 100)
            run.metrics([Metric(step=step, epoch=step // 50, split="val", name="dice", value=0.5)])
            run.metrics([Metric(step=step, split="test", name="auprc", value=0.5)])
            run.samples([Sample(step=step, split="val", sample="s", name="dice", value=1.0)])
            data = np.full(3, step, dtype=np.uint8)
            run.arrays([Array(step=step, site="head", role="", probe="h", key="x", data=data)])
    with qprobe.open(path) as opened:
        yield opened


@pytest.mark.parametrize(
    ("patterns", "count"),
    [
        ({}, 11),
        ({"site": "blocks.0"}, 4),
        ({"site": "blocks.[12]"}, 6),
        ({"site": "blocks.?", "key": "k1"}, 3),
        ({"site": "h*"}, 1),
        ({"role": "input"}, 10),
        ({"role": ""}, 1),
        ({"probe": "train"}, 1),
        ({"site": "BLOCKS.0"}, 0),
        ({"site": "blocks"}, 0),
    ],
)
def test_patterns_choose_columns(reader: RunReader, patterns: dict[str, str], count: int):
    assert len(reader.columns(**patterns)) == count
    assert {column for column, _ in reader.select(**patterns)} == set(reader.columns(**patterns))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (None, list(range(0, 100, 5))),
        (range(10, 20), [10, 15]),
        (range(10, 21), [10, 15, 20]),
        (range(3, 50, 10), []),
        (range(0, 100, 25), [0, 25, 50, 75]),
        (range(200, 300), []),
        (range(50, 10), []),
    ],
)
def test_steps_are_a_range(reader: RunReader, steps: range | None, expected: list[int]):
    found = [record.step for record in reader.records(site="blocks.0", key="k1", steps=steps)]
    assert found == expected
    arrays = [array.step for array in reader.arrays(steps=steps)]
    assert arrays == [step for step in (0, 50) if steps is None or step in steps]
    samples = [sample.step for sample in reader.samples(steps=steps)]
    assert samples == arrays


def test_a_falling_range_is_refused(reader: RunReader):
    with pytest.raises(InputError, match="positive stride"):
        list(reader.records(steps=range(10, 0, -1)))


def test_records_are_complete(reader: RunReader):
    record = next(reader.records(site="blocks.2", key="k1", steps=range(5, 6)))
    assert record.run == reader.meta.run
    assert (record.step, record.value) == (5, 5009.0)
    assert record.column == columns(10)[9]


def test_metrics_and_samples_are_chosen_by_name(reader: RunReader):
    assert [m.step for m in reader.metrics(split="val")] == [0, 50]
    assert [m.epoch for m in reader.metrics(name="a*")] == [None, None]
    assert reader.samples(name="auprc") == []
    assert reader.samples(split="val", name="dice")[0].patient is None


def test_arrays_are_chosen_by_pattern(reader: RunReader):
    assert [a.data.tolist() for a in reader.arrays(site="h*", key="x")] == [[0] * 3, [50] * 3]
    assert list(reader.arrays(key="y")) == []


def test_an_unknown_series_is_named(reader: RunReader):
    with pytest.raises(InputError, match="no series head input summary k9; list them"):
        reader.series("head", "input", "summary", "k9")


def test_a_series_may_be_named_with_characters_of_patterns(path: Path):
    with create(path, INFO) as run:
        for key in ("h[0]", "h*", "h?"):
            run.record(0, Column("", "", "", key), float(len(key)))
    with qprobe.open(path) as reader:
        assert reader.series("", "", "", "h[0]").values.tolist() == [4.0]
        assert len(reader.columns(key="h[[]0]")) == 1


def test_a_series_that_was_announced_and_not_measured_is_empty(path: Path):
    with create(path, INFO) as run:
        run.layout(columns(3))
    with qprobe.open(path) as reader:
        assert len(reader.series(*columns(3)[0])) == 0
        assert reader.columns() == columns(3)
        assert list(reader.select()) == []


def test_a_closed_reader_says_so(reader: RunReader):
    reader.close()
    reader.close()
    with pytest.raises(QprobeError, match=r"reading .*run\.qprobe failed: .*closed"):
        reader.metrics()


def test_threads_share_a_reader(reader: RunReader):
    errors: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(30):
                assert len(list(reader.records(site="blocks.1"))) == 80
                assert reader.meta.status is Status.FINISHED
        except BaseException as error:  # noqa: BLE001 - carried to the main thread
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_span_that_moves_during_a_read_is_seen_once(path: Path):
    with create(path, INFO) as run, qprobe.open(path) as reader:
        ramp(run, range(SPAN - 1))
        moved: list[str] = []

        def move(statement: str) -> None:
            if "FROM live" in statement and not moved:
                moved.append(statement)
                ramp(run, range(SPAN - 1, SPAN))

        reader._connection.set_trace_callback(move)  # after the chunks, before the rows
        assert reader.series(*columns(10)[0]).steps.tolist() == list(range(SPAN - 1))
        assert moved
        assert reader.series(*columns(10)[0]).steps.tolist() == list(range(SPAN))


POLL = """
import sys, numpy as np, qprobe
with qprobe.open(sys.argv[1]) as reader:
    print("open", flush=True)
    looks, last = 0, -1
    while last < int(sys.argv[2]):
        for column in reader.columns(key="k0"):
            series = reader.series(*column)
            steps = np.arange(len(series))
            assert (series.steps == steps).all(), series.steps
            number = 4 * int(column.site.removeprefix("blocks."))
            assert (series.values == 1000.0 * steps + number).all()
        last, looks = (series.steps[-1] if len(series) else -1), looks + 1
print(looks, flush=True)
"""


@pytest.mark.parametrize("background", [False, True])
def test_a_reader_in_another_process_sees_whole_prefixes(path: Path, background: bool):
    last = 250
    with create(path, INFO, background=background) as run:
        run.layout(columns(200))
        run.flush(wait=True)
        command = [sys.executable, "-c", POLL, path, str(last)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            ramp(run, range(last + 1), count=200)
            run.flush(wait=True)
            looks = child.stdout.readline()
        assert child.returncode == 0
        assert int(looks) >= 2


@pytest.mark.parametrize("module", ["qprobe", "qprobe.records", "qprobe.records.export"])
def test_reading_never_imports_torch(path: Path, module: str):
    with create(path, INFO) as run:
        ramp(run, range(3))
    script = (
        f"import sys, {module}, qprobe; reader = qprobe.open(sys.argv[1]); "
        "assert list(reader.records()); "
        "heavy = {'torch', 'scipy', 'pandas', 'pyarrow', 'sklearn'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script, path], check=True)


def test_a_batch_with_nothing_present_is_a_step_without_values(path: Path):
    with create(path, INFO) as run:
        layout = run.layout(columns(2))
        run.records(0, Batch(layout=layout, values=np.zeros(2), present=np.zeros(2, bool)))
        run.records(1, Batch(layout=layout, values=np.zeros(2)))
    with qprobe.open(path) as reader:
        assert [series.steps.tolist() for _, series in reader.select()] == [[1], [1]]
