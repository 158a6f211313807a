import time
from pathlib import Path

import pytest
import torch

from qprobe.cli import step_clock
from qprobe.cli.probing import Probing
from qprobe.engine import TrainConfig

CONFIG = TrainConfig(
    size="tiny",
    image=32,
    batch=8,
    epochs=3,
    data_options=(("image", 32), ("patients", 10), ("slices", 4)),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_step_takes_time_and_the_median_leaves_the_first_out(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]

    def train(config, folder, *, callbacks):
        (clock,) = callbacks
        clock.begin(None)
        for pause in (0.2, 0.01, 0.05, 0.01):
            now[0] += pause
            clock.step(None)
        raise AssertionError("it was to stop after four steps")

    monkeypatch.setattr(step_clock, "train", train)
    monkeypatch.setattr(step_clock.time, "perf_counter", lambda: now[0])
    assert step_clock.time_step(CONFIG) == pytest.approx(0.01)


def test_a_single_step_counts(monkeypatch: pytest.MonkeyPatch):
    def train(config, folder, *, callbacks):
        callbacks[0].begin(None)
        time.sleep(0.02)
        callbacks[0].step(None)

    monkeypatch.setattr(step_clock, "train", train)
    assert step_clock.time_step(CONFIG) >= 0.02


def test_threads_are_as_they_were(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def train(config, folder, *, callbacks):
        seen.append(torch.get_num_threads())
        callbacks[0].begin(None)
        callbacks[0].step(None)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(step_clock, "train", train)
        step_clock.time_step(CONFIG)
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_steps_are_counted_from_the_data():
    # 8 of 10 patients train: 32 slices, 4 batches of 8, 3 epochs.
    assert step_clock.count_steps(CONFIG) == 12
    assert step_clock.count_steps(TrainConfig.of(CONFIG.as_json() | {"steps": 5})) == 5


@pytest.mark.parametrize(("budget", "share"), [("40%", 0.4), ("none", None)])
def test_probes_count(monkeypatch: pytest.MonkeyPatch, budget, share):
    sessions, before = [], Probing.callback

    def callback(probing):
        made = before(probing)
        sessions.append(made)
        return made

    monkeypatch.setattr(Probing, "callback", callback)
    probing = Probing.of("moments", 1, budget)
    found = step_clock.time_step(CONFIG, probing)
    report = sessions[0].session.report()
    assert report.looks >= 1
    added = report.expected if share is None else share
    assert added > 0
    assert found == pytest.approx(report.step_s * (1 + added))


def test_without_probes_there_is_nothing_to_add():
    assert step_clock.time_step(CONFIG, Probing.of("none", None, None)) > 0
