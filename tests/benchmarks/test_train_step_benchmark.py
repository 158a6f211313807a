import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_step.py"


def test_the_quick_run_times_every_recipe_and_the_data():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])},
    )
    report = json.loads(done.stdout)
    models = {one["model"] for one in report["loading"]}
    assert models == {"cnn tiny, 64²", "swin tiny, 64², patch 8"}
    timed = {(t["path"], t["variant"]) for t in report["timings"]}
    recipes = {variant for _, variant in timed}
    assert {"nvfp4", "nvfp4-chain", "nvfp4-2d-rht-sr", "int4-tensor"} <= recipes
    assert timed == {(model, recipe) for model in models for recipe in recipes}
    assert all(0 < t["lowest"] <= t["ratio"] <= t["highest"] for t in report["timings"])
    assert all(0 < one["batch_ms"] < one["step_ms"] for one in report["loading"])
