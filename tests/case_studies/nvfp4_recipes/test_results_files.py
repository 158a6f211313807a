import json

import pytest
import results
from results import Result, StageResults

from qprobe.errors import InputError


def result(value, machine="m0"):
    return Result(
        hash="h", settings={"lr": 0.1}, cpu_s=1.0, wall_s=2.0, machine=machine, values=value
    )


def stage(machines=("m0",), **cells):
    return StageResults(results=cells, machines={name: {"cpu": name} for name in machines})


def test_what_is_saved_is_loaded(tmp_path):
    kept = stage(b=result({"x": 1.5}), a=result({"y": [1, "nan"]}))
    results.save(tmp_path, "cpu", "s", kept)
    assert results.load(tmp_path, "cpu", "s") == kept
    assert results.load(tmp_path, "cpu", "other").results == {}


def test_one_line_a_cell_in_the_order_of_keys_and_no_machine_that_measured_nothing(tmp_path):
    results.save(tmp_path, "cpu", "s", stage(("m0", "m1"), b=result({}), a=result({})))
    lines = results.path_of(tmp_path, "cpu", "s").read_text().splitlines()
    assert [line[:4] for line in lines if line.startswith(('"a"', '"b"'))] == ['"a":', '"b":']
    assert json.loads("".join(lines))["machines"] == {"m0": {"cpu": "m0"}}


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    results.save(tmp_path, "cpu", "s", stage(a=result({"x": 1})))

    def stops(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(results.os, "fsync", stops)
    with pytest.raises(KeyboardInterrupt):
        results.save(tmp_path, "cpu", "s", stage(a=result({"x": 2})))
    assert results.load(tmp_path, "cpu", "s").results["a"].values == {"x": 1}


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (1 / 3, 0.333333),
        (123456789.0, 123457000.0),
        (float("inf"), "inf"),
        ((1, 2.0, None, True), [1, 2.0, None, True]),
        ({1: {"a": 0.1}}, {"1": {"a": 0.1}}),
    ],
)
def test_numbers_are_rounded_and_never_lost(value, kept):
    assert results.plain(value) == kept
    assert type(results.plain(value)) is type(kept)


def test_a_broken_file_is_named(tmp_path):
    path = results.path_of(tmp_path, "cpu", "s")
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(InputError, match=r"s\.json is no file of results"):
        results.load(tmp_path, "cpu", "s")
