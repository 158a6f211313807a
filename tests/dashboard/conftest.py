"""A sweep that the tests of this folder share; nobody writes to it."""

from pathlib import Path

import pytest
import synthetic_runs

from qprobe.dashboard.library import Library


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_runs.folder(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def library(sweep: Path) -> Library:
    return Library([sweep])
