import json
import os
import subprocess
import sys
from pathlib import Path

from qprobe.faults import KINDS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "diagnosis.py"


def test_the_quick_run_plants_what_fits_and_asks_every_baseline():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    verdicts = json.loads(done.stdout)
    assert {v["doctor"] for v in verdicts} == {"highest kurtosis", "lowest SQNR", "largest MSE"}
    kinds = {v["case"]["kind"] for v in verdicts}
    of_attention = {"key-offset", "logit-growth"}  # a CNN has none
    assert kinds == {"healthy", *KINDS} - of_attention
    for verdict in verdicts:
        case = verdict["case"]
        assert bool(case["sites"]) == (case["kind"] != "healthy")
        assert (case["effect"] is None) == (case["cause"] is None)
        assert len(verdict["diagnosis"]["ranked"]) == 5  # every quantized layer of the tiny CNN
    spikes = [v for v in verdicts if v["case"]["kind"] == "spatial-outlier"]
    assert any(v["diagnosis"]["ranked"][0][0] in v["case"]["sites"] for v in spikes)
