import pytest
from rich.progress import TimeRemainingColumn

from qprobe.analyzers.analysis import Watcher
from qprobe.cli.analysis_progress import Bar, Lines, watcher
from qprobe.records import Record


def record(key, probe="dequantization", site="fc"):
    return Record("", 0, site, "", probe, key, 8.0)


def test_a_pipe_gets_a_line_for_each_stage(capsys):
    lines = watcher()
    assert isinstance(lines, Lines)
    lines.stages(["dequantization", "observation"])
    for name in ("dequantization", "observation", "one more than announced"):
        lines.stage(name)
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in said] == [
        "[1/2] dequantization", "[2/2] observation", "[3/3] one more than announced",
    ]  # fmt: skip


def test_time_is_told_where_there_was_any(capsys, monkeypatch):
    now = iter([100.0, 100.2, 142.3])
    monkeypatch.setattr("qprobe.cli.analysis_progress.time.monotonic", lambda: next(now))
    lines = Lines()
    lines.stages(["a", "b"])
    lines.stage("a")
    lines.stage("b")
    assert capsys.readouterr().err.splitlines() == ["[1/2] a", "[2/2] b, after 42 s"]


@pytest.fixture
def bar():
    made = Bar()
    made.stages(["dequantization", "short_run"])
    yield made
    made.close()


def completed(bar: Watcher) -> float:
    return bar._progress.tasks[0].completed  # type: ignore[attr-defined]


def test_the_bar_moves_within_a_stage_and_never_back(bar):
    bar.stage("dequantization")
    assert completed(bar) == 0.0
    seen = []
    for key in ("gap", "recovery.low", "screen", "something else", "cumulative"):
        bar.seen(record(key))
        seen.append(completed(bar))
    assert seen == sorted(seen)
    assert 0.0 < seen[0] < seen[-1] < 1.0
    bar.stage("short_run")
    assert completed(bar) == 1.0


def test_the_bar_tells_how_long_it_will_take(bar):
    """A quarter of the first of two stages in ten seconds: 70 are left."""
    now = [100.0]
    bar._progress.get_time = lambda: now[0]
    assert any(isinstance(one, TimeRemainingColumn) for one in bar._progress.columns)
    bar.stage("dequantization")
    for key, seconds in (("gap", 6.0), ("screen", 4.0)):  # 0.15 and 0.25 of the stage
        now[0] += seconds
        bar.seen(record(key))
    assert bar._progress.tasks[0].time_remaining == pytest.approx(70.0, abs=1.0)


def test_short_runs_are_counted_by_their_steps(bar):
    bar.stage("dequantization")
    bar.stage("short_run")
    bar.seen(record("steps", "short_run"))
    for step in range(1, 9):
        bar.seen(record("loss.as it is", "short_run"))
        assert completed(bar) == 1.0 + step / 8
    bar.seen(record("loss.as it is", "short_run"))  # a rehearsal more than announced
    assert completed(bar) == 2.0


def test_weights_are_counted(bar):
    bar.stage("dequantization")
    bar.seen(Record("", 0, "", "weight", "weights", "weights", 4.0))
    for number, site in enumerate(["a", "a", "b", "c", "d"], start=1):
        bar.seen(record("kurtosis", "weights", site))
        assert completed(bar) == pytest.approx(max(1, number - 1) / 4)
