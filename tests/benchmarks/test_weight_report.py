import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "weight_report.py"


def test_the_benchmark_runs_and_prints_a_row_for_each_depth():
    words = ["--layers", "2", "--width", "128", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, check=True
    )
    assert "32,768 elements" in done.stdout
    rows = {line.split(" | ")[0] for line in done.stdout.splitlines() if line.startswith("| ")}
    assert {"| one pass", "| quick", "| full"} <= rows
