"""What `make demo` runs, on fewer steps."""

import re
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
