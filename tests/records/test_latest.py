from pathlib import Path

import numpy as np
from sample_runs import columns, ramp

import qprobe
from qprobe.records import Batch, Column, Point, RunWriter


def test_the_last_values_of_a_ramp(writer: RunWriter, path: Path):
    ramp(writer, range(150))  # two full spans of 64 steps, and 22 rows that are not yet transposed
    writer.record(7, Column("head", "", "one", "x"), 0.5)
    writer.flush()
    with qprobe.open(path) as reader:
        at = {until: dict(reader.last(until=until)) for until in (None, 140, 100, 6)}
    for column, place in zip(columns(10), range(10), strict=True):
        assert at[None][column] == Point(149, 149_000.0 + place)
        assert at[140][column] == Point(140, 140_000.0 + place)
        assert at[100][column] == Point(100, 100_000.0 + place)
    assert at[None][Column("head", "", "one", "x")] == Point(7, 0.5)
    assert len(at[6]) == 10


def test_what_was_measured_rarely_is_found_far_back(writer: RunWriter, path: Path):
    layout = writer.layout(columns(3))
    rare = np.array([True, False, True])
    for step in range(200):
        present = rare if step else np.array([True, True, False])
        writer.records(step, Batch(layout=layout, values=np.full(3, 1.0 * step), present=present))
        writer.flush()
    with qprobe.open(path) as reader:
        found = [point for _, point in reader.last()]
        assert [column.key for column, _ in reader.last(until=0)] == ["k0", "k1"]
    assert found == [Point(199, 199.0), Point(0, 0.0), Point(199, 199.0)]


def test_a_pattern_chooses(writer: RunWriter, path: Path):
    ramp(writer, range(3))
    with qprobe.open(path) as reader:
        assert [column.key for column, _ in reader.last(site="blocks.1")] == [
            "k0",
            "k1",
            "k2",
            "k3",
        ]
        assert list(reader.last(key="none")) == []
