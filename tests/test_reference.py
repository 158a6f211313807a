"""docs/reference.md names everything that there is, and nothing that there is not."""

import re
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules

import typer

import qprobe
from qprobe.cli.main import app

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reference.md").read_text("utf-8")
#: Parts that nobody imports by themselves.
INNER = {"cli", "errors", "native", "registry"}


def cells(heading: str) -> set[str]:
    """What the first column of the tables below a heading names."""
    (part,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return {
        name
        for line in part.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]*)`", line.split(" | ")[0])
    }


def test_every_command_and_no_other():
    known = typer.main.get_command(app).commands
    assert cells("Commands") == {f"qprobe {name}" for name in known}


def test_every_public_name_and_package_and_no_other():
    told = {name.removeprefix("qprobe.") for name in cells("Python")}
    packages = {one.name for one in iter_modules(qprobe.__path__) if one.name[0] != "_"} - INNER
    # Two names stand beside the function that makes them or takes them.
    beside = {"Session", "Subject"}
    assert told | beside == {*qprobe.__all__, *packages} - {"__version__"}
    assert all(f"`qprobe.{name}`" in PAGE for name in beside)
    for name in told:
        assert hasattr(qprobe, name) or import_module(f"qprobe.{name}")


def test_every_group_of_entry_points():
    declared = {group for group in entry_points().groups if group.startswith("qprobe.")}
    assert cells("Adding one") == declared


def test_every_variable_that_is_read():
    read = {
        name
        for folder in ("qprobe", "tests", "docs")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"environ\S*[\[(]\"(QPROBE_\w+)\"", path.read_text("utf-8"))
    }
    assert read
    assert read <= {name.split("=")[0] for name in cells("Environment")}


def test_every_page_it_points_to_is_there():
    for link in re.findall(r"\]\(([^)]*)\)", PAGE):
        assert (ROOT / "docs" / link).is_file(), link
