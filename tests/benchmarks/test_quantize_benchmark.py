import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "quantize.py"


def test_the_quick_run_times_every_path_and_finds_the_peers_values_equal():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    report = json.loads(done.stdout)

    timed = {(t["path"], t["dtype"]) for t in report["timings"]}
    assert {("PyTorch", "float32"), ("PyTorch", "bfloat16"), ("floor", "float32")} <= timed
    assert all(0 < t["lowest"] <= t["ratio"] <= t["highest"] for t in report["timings"])
    assert all(o["us"] > 0 for o in report["overheads"])
    reference = [a for a in report["agreements"] if a["peer"].startswith("Transformer Engine")]
    assert reference or "Transformer Engine" in report["absent"]
    assert all(a["equal"] == 1.0 for a in reference)
    assert all(a["close"] > 0.5 for a in report["agreements"])
