import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from qprobe.cli import progress
from qprobe.records import Status


@pytest.fixture
def training():
    return SimpleNamespace(
        config=SimpleNamespace(arch="cnn", size="tiny", data="phantom", image=32, recipe="nvfp4"),
        bench=SimpleNamespace(
            conversion=SimpleNamespace(converted=("a", "b"), left_alone=("c",)),
            precision=SimpleNamespace(value="fp32"),
            device="cpu",
        ),
        step=4, total=8, epoch=1, loss=0.51239, best_score=0.25,
    )  # fmt: skip


def test_in_a_pipe_there_is_a_line_for_each_validation(training, capsys):
    lines = progress.progress()
    assert isinstance(lines, progress.Lines)
    lines.begin(training)
    lines.step(training)
    lines.epoch(training, {"auprc": 0.12345})
    lines.epoch(training, {})
    lines.end(training, Status.FINISHED)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "cnn tiny on phantom 32², nvfp4: 2 layers quantized, 1 in fp32, on cpu",
        "step 4/8  epoch 1  loss 0.5124  auprc 0.1235  best 0.2500",
        "step 4/8  epoch 1  loss 0.5124  auprc -  best 0.2500",
    ]


def test_on_a_terminal_there_is_a_bar(training, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = progress.progress()
    assert isinstance(bar, progress.Bar)
    screen = io.StringIO()
    bar._progress.live.console = Console(file=screen, force_terminal=True, width=100)
    bar.begin(training)
    bar.step(training)
    bar.epoch(training, {"auprc": 0.12345})
    bar._progress.refresh()
    bar.end(training, Status.FINISHED)
    shown = screen.getvalue()
    for part in ("nvfp4", "4/8", "loss 0.5124", "auprc 0.1235"):
        assert part in shown


def test_a_bar_that_never_began_ends(training):
    progress.Bar().end(training, Status.FAILED)
