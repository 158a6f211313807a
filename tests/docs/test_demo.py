"""What `make demo` runs, on fewer steps."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "docs" / "demo.py"


def tables(folder: Path) -> str:
    """What the demo shows of the recipes and layers, without the time it took."""
    command = [sys.executable, str(DEMO), "--steps", "60", "--out", str(folder)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.search(r"^layer +tensor +NVFP4 dB +INT4 dB +underflow +kurtosis", shown, re.MULTILINE)
    assert re.search(r"probes cost \d+\.\d%", shown)
    return re.split(r"\n\d+ s\. The run", shown[shown.index("What they saw last") :])[0]


@pytest.mark.slow
def test_the_demo_ends_with_an_answer_and_gives_it_again(tmp_path: Path) -> None:
    first = tables(tmp_path / "run")
    assert "Finding." in first or "No problem found" in first
    assert tables(tmp_path / "run") == first


@pytest.mark.slow
def test_the_demos_checkpoint_names_the_guilty_layer_and_absolves_nvfp4(tmp_path: Path) -> None:
    """What a person is promised first, within a minute of processor time each."""
    command = [sys.executable, str(DEMO), "--out", str(tmp_path / "run")]
    subprocess.run(command, check=True, capture_output=True)
    for recipe, said in (
        ("int4-tensor", r"; head alone is \d+% of it\."),
        ("nvfp4", r"^No problem found: nvfp4 costs "),
    ):
        asked = [
            "analyze",
            str(tmp_path / "run" / "best.pt"),
            "--recipe",
            recipe,
            "--layers",
            "all",
        ]
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = subprocess.run(
            [sys.executable, "-m", "qprobe", *asked], check=True, capture_output=True, text=True
        )
        assert re.search(said, done.stdout, re.MULTILINE)
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 60
