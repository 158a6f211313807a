"""qprobe/__init__.py: what the import costs, and what it says of itself."""

import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import pytest

import qprobe

HEAVY = ("torch", "numpy", "scipy", "sklearn", "rich", "typer")


def imported_by(code: str) -> set[str]:
    """The heavy packages in ``sys.modules`` after ``code`` ran in a fresh interpreter."""
    report = f"\nimport sys\nprint('|', *({{*{HEAVY!r}}} & {{*sys.modules}}))"
    seen = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, check=False
    )
    assert seen.returncode == 0, seen.stderr
    return set(seen.stdout.rsplit("|", 1)[1].split())


def test_the_import_costs_nothing():
    assert imported_by("import qprobe, qprobe.errors, qprobe.registry") == set()


@pytest.mark.parametrize("words", [["--help"], ["list", "--help"], ["list"], ["nonsense"], []])
def test_help_lists_and_refusals_import_no_torch(words):
    loaded = imported_by(f"from qprobe.cli.main import main; main({words!r})")
    assert loaded <= {"numpy", "rich", "typer"}


def test_the_probe_sees_what_is_imported():
    assert imported_by("import numpy") == {"numpy"}


def test_the_version_is_that_of_the_distribution():
    assert qprobe.__version__ == version("qprobe")


def test_public_names_are_those_of_their_modules_and_are_listed():
    assert {*qprobe.__all__} == {"__version__", *qprobe._PUBLIC}
    assert set(qprobe.__all__) <= set(dir(qprobe))
    for name, module in qprobe._PUBLIC.items():
        assert getattr(qprobe, name) is getattr(import_module(module), name)


def test_a_public_name_loads_its_module_when_it_is_used():
    assert "torch" in imported_by("import qprobe; qprobe.recipe")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'qprobe' has no attribute 'quantise'"):
        _ = qprobe.quantise
