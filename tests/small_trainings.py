"""Trainings of a second: tiny models on a phantom of twelve patients."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qprobe.engine import TrainConfig

Small = Callable[..., TrainConfig]

#: Settings of a training with four steps an epoch.
SMALL: dict[str, Any] = {
    "size": "tiny",
    "image": 32,
    "batch": 8,
    "validation": 2,
    "test": 2,
    "epochs": 3,
    "device": "cpu",
}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the generated data of all tests are."""
    return tmp_path_factory.mktemp("phantoms")


@pytest.fixture
def small(cache: Path) -> Small:
    """A small training; keywords change it."""

    def make(**changes: Any) -> TrainConfig:
        options = {"patients": 12, "slices": 4, "cache": str(cache)}
        return TrainConfig.of({**SMALL, "data_options": options, **changes})

    return make
