import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sensitivity.py"


@pytest.mark.slow
def test_the_quick_run_compares_every_method():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])},
    )
    results = json.loads(done.stdout)["results"]
    assert {one["method"] for one in results} == {
        "ours, exhaustive",
        "ours",
        "ours, screen only",
        "restore and evaluate each (AIMET)",
        "divergence (ModelOpt)",
        "gradient (ModelOpt)",
    }
    assert all(one["layers"] >= 40 and one["spent"] > 0 < one["one_pass"] for one in results)
    assert [one["strictly"] for one in results if one["method"] == "ours, exhaustive"] == [True]
