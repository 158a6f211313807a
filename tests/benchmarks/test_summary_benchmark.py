import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "summary.py"


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return done.stdout


def test_the_quick_run_times_every_path_on_tokens_and_images():
    report = json.loads(run("--json"))
    paths = {(r["layout"], r["timing"]["path"], r["timing"]["dtype"]) for r in report["rows"]}
    assert {
        (layout, "PyTorch", dtype)
        for layout in ("tokens", "NCHW", "channels last")
        for dtype in ("float32", "bfloat16")
    } <= paths
    assert all(r["timing"]["lowest"] > 0 for r in report["rows"])
    assert all(ns > 0 for ns in report["floors"].values())


def test_goals_stand_beside_what_was_measured():
    lines = run().splitlines()
    goals = [line for line in lines if "goal: at most" in line]
    assert any(line.startswith("- PyTorch, moments, float32, tokens") for line in goals)
    assert all(line.endswith((", met)", ", missed)")) for line in goals)
