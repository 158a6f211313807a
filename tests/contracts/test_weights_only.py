"""A checkpoint is hostile: nothing here loads one but as weights, and no option says otherwise."""

import ast
from pathlib import Path

import typer.main

import qprobe
from qprobe.cli.main import app

SOURCES = {
    path: ast.parse(path.read_text("utf-8"))
    for path in sorted(Path(qprobe.__file__).parent.rglob("*.py"))
    if "load" in path.read_text("utf-8") or "pickle" in path.read_text("utf-8")
}
#: Of what the parent process itself sends to its workers.
PICKLES = {"processes.py"}


def calls(tree, name):
    return [
        one for one in ast.walk(tree) if isinstance(one, ast.Call) and ast.unparse(one.func) == name
    ]


def test_every_load_is_of_weights_only():
    loads = [(path, one) for path, tree in SOURCES.items() for one in calls(tree, "torch.load")]
    assert len(loads) >= 3
    for path, one in loads:
        given = {word.arg: ast.unparse(word.value) for word in one.keywords}
        assert given.get("weights_only") == "True", path


def test_nothing_else_unpickles():
    readers = (
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "torch.jit.load",
        "torch.hub.load",
    )
    found = {
        path.name for path, tree in SOURCES.items() if any(calls(tree, one) for one in readers)
    }
    assert found <= PICKLES


def test_no_option_switches_it_off():
    commands = typer.main.get_command(app).commands
    options = [word for one in commands.values() for two in one.params for word in two.opts]
    assert len(options) > 50
    assert not [
        word for word in options if any(bad in word for bad in ("unsafe", "trust", "pickl"))
    ]
