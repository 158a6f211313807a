"""Trainings of a second, and modules that they name."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_trainings import cache, small

__all__ = ["cache", "small"]


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module that a training can name as ``module:factory``; the module's name."""

    def write(source: str) -> str:
        name = f"foreign_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        sys.modules.pop(name, None)
        return name

    return write
