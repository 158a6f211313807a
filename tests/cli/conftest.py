"""A tiny trained-looking checkpoint, and a user's own subject, made once."""

from pathlib import Path

import pytest

from qprobe.engine import TrainConfig, train

SUBJECT = '''
from dataclasses import replace

import torch
from torch import nn
import qprobe
from qprobe.analyzers.base import Subject
from qprobe.analyzers.scores import Accuracy


def losses(output, batch):
    return nn.functional.cross_entropy(output, batch[1], reduction="none")


def continuation(model, steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(64, 32, generator=generator)
        optimizer.zero_grad()
        loss = losses(model(x), (x, x[:, :4].argmax(1))).mean()
        loss.backward()
        optimizer.step()
        yield loss.item()


def trains():
    """The same with a training to go on with."""
    return replace(make_subject(), continuation=continuation)


def make_subject():
    """One output of the second layer has huge weights and is never on: one scale fails."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
                          nn.Linear(32, 4))
    with torch.no_grad():
        model[2].weight[3] *= 400.0
        model[2].bias[3] = -1e6
    batches = []
    with torch.no_grad():
        for _ in range(8):
            x = torch.randn(64, 32, generator=generator)
            batches.append((x, model(x).argmax(1)))
    return Subject(model=model, recipe=qprobe.recipe("nvfp4"), batches=lambda: batches,
                   loss=losses, score=Accuracy())


def raises():
    raise RuntimeError("no [bold]data[/bold] here")


def wrong():
    return 3
'''


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of two steps on a phantom of twelve patients."""
    folder = tmp_path_factory.mktemp("trained")
    config = TrainConfig.of(
        {
            "size": "tiny", "image": 32, "batch": 8, "validation": 4, "test": 2, "epochs": 1,
            "steps": 2, "device": "cpu", "recipe": "bf16",
            "data_options": {"patients": 12, "slices": 2, "cache": str(folder / "cache")},
        }
    )  # fmt: skip
    train(config, folder / "run")
    return folder / "run"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file with functions that return subjects, or do not."""
    path = tmp_path / "own.py"
    path.write_text(SUBJECT)
    return path
