from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sample_runs import INFO

from qprobe.records import RunWriter, create, resume


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.qprobe"


@pytest.fixture
def writer(path: Path) -> Iterator[RunWriter]:
    with create(path, INFO) as opened:
        yield opened


@pytest.fixture
def start(path: Path) -> Iterator[Callable[..., RunWriter]]:
    """Creates or resumes the run; what a test leaves open is closed after it."""
    with ExitStack() as stack:

        def opened(**options: Any) -> RunWriter:
            if path.exists():
                return stack.enter_context(resume(path, **options))
            return stack.enter_context(create(path, INFO, **options))

        yield opened


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file geometry in which a few columns and steps cross every boundary."""
    for module in ("layout", "history", "latest"):
        monkeypatch.setattr(f"qprobe.records.{module}.BLOCK", 2)
        monkeypatch.setattr(f"qprobe.records.{module}.SEGMENT", 4)
    monkeypatch.setattr("qprobe.records.commit.SPAN", 3)
