import json
import os
import pty
import subprocess
import sys

import pytest

from qprobe.analyzers.base import ANALYZERS
from qprobe.cli.main import main
from qprobe.probes.base import PROBES
from qprobe.quant import recipes
from qprobe.registry import Registry


def test_list_names_everything_by_kind(capsys):
    assert main(["list"]) == 0
    lines = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert lines["recipes"].split(", ") == sorted(recipe.name for recipe in recipes())


def test_list_shows_a_new_registry_by_itself(tmp_path, monkeypatch, capsys):
    info = tmp_path / "zoo-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[qprobe.animals]\nzebra = zoo:Z\nape = zoo:A\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert Registry("qprobe.animals", "animal", lambda _, obj: obj).names() == ["ape", "zebra"]
    assert main(["list"]) == 0
    assert "animals: ape, zebra\n" in capsys.readouterr().out
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["animals"] == ["ape", "zebra"]


def test_json_before_the_kind_is_refused_rather_than_ignored(capsys):
    assert main(["list", "--json", "recipes"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--json comes last: qprobe list recipes --json." in err


def test_in_a_pipe_a_recipe_is_a_line_with_whole_cells(capsys):
    assert main(["list", "recipes"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [recipe.name for recipe in recipes()]
    starts = [heading.index(title) for title in recipes()[0].cells()]
    for line, recipe in zip(lines, recipes(), strict=True):
        cells = [line[start:].split("  ")[0] for start in starts]
        assert cells == list(recipe.cells().values())
        assert line.endswith(recipe.summary)


def test_json_is_exact_and_plain_ascii(capsys):
    assert main(["list", "recipes", "--json"]) == 0
    text = capsys.readouterr().out
    assert text.isascii()
    data = {entry["name"]: entry for entry in json.loads(text)}
    assert list(data) == [recipe.name for recipe in recipes()]
    assert data["nvfp4-2d-rht-sr"]["products"]["wgrad"] == {
        "dy": {"format": "nvfp4", "rounding": "stochastic", "tile": "1d"},
        "x": {"format": "nvfp4", "rounding": "nearest-even", "tile": "1d"},
        "hadamard": 16,
    }


def on_a_terminal(columns: int) -> str:
    """What ``qprobe list recipes`` writes to a terminal of that width."""
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": "24", "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [sys.executable, "-c", "from qprobe.cli.main import run; run()", "list", "recipes"],
        stdout=child,
        stderr=child,
        env=environment,
    ) as process:
        os.close(child)
        pieces = []
        try:
            while piece := os.read(parent, 4096):
                pieces.append(piece)
        except OSError:  # how Linux says that the other end of a terminal was closed
            pass
    os.close(parent)
    assert process.returncode == 0
    return b"".join(pieces).decode()


@pytest.mark.parametrize("columns", [30, 80])
def test_on_a_terminal_nothing_is_cut(columns):
    text = on_a_terminal(columns)
    assert "…" not in text
    assert "\x1b[1m" in text
    for recipe in recipes():
        assert recipe.name in text
    assert ("recipe              x " in text) is (columns == 80)


def test_probes_say_what_they_measure_and_when_they_are_asked(capsys):
    assert main(["list", "probes", "--json"]) == 0
    said = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(said) == PROBES.names()
    assert said["moments"]["every"] == 10  # the interval of a session
    assert said["block_scales"]["every"] == 100  # its own, which is longer
    assert [name for name, one in said.items() if not one["by default"]] == ["output_error"]
    assert main(["list", "probes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "every", "by", "default", "measures"]
    assert all(line.endswith(said[line.split()[0]]["measures"]) for line in lines[1:])


def test_analyzers_say_what_they_do(capsys):
    assert main(["list", "analyzers"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ANALYZERS.names()
    # A sentence each, of its own class and not of the protocol.
    assert len({line.split(maxsplit=1)[1] for line in lines}) == len(lines)
    assert all(line.endswith((".", "?")) and "`" not in line for line in lines)
