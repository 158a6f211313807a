import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from qprobe.faults import KINDS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "diagnosis.py"
BASELINES = {"highest kurtosis", "lowest SQNR", "largest MSE"}
#: After three steps residual branches of SegFormer still get next to no gradient, and are told.
STARVED = {"hf-segformer"}
#: Nothing else has products of attention that are modules.
OF_ATTENTION_PRODUCTS = {"key-offset"}


def run(*options, path=()):
    return subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT, "--quick", *options],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([*path, str(SCRIPT.parents[1])]),
        },
    )


def examined(*options):
    return json.loads(run("--json", *options).stdout.splitlines()[-1])


def test_the_quick_run_plants_what_fits_and_asks_every_baseline():
    every = examined("--undetectable")
    assert {one["case"]["kind"] for one in every} == {"healthy", *KINDS} - {
        "key-offset",
        "logit-growth",  # a CNN has no attention
    }
    for one in every:
        case = one["case"]
        assert case["family"] == "cnn"
        assert bool(case["sites"]) == (case["kind"] != "healthy")
        assert (case["effect"] is None) == (case["cause"] is None)
        assert one["diagnoses"].keys() == BASELINES
        for said in one["diagnoses"].values():
            assert len(said["ranked"]) == 5  # every quantized layer of the tiny CNN
    spikes = [one for one in every if one["case"]["kind"] == "spatial-outlier"]
    assert any(
        said["ranked"][0][0] in one["case"]["sites"]
        for one in spikes
        for said in one["diagnoses"].values()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "library", "absent"),
    [
        ("monai-unet", "monai", {"logit-growth"}),
        ("monai-swinunetr", "monai", set()),
        ("hf-segformer", "transformers", set()),
        ("hf-llama", "transformers", set()),
    ],
)
def test_foreign_models_get_every_kind_that_fits_and_are_diagnosed(family, library, absent):
    pytest.importorskip(library)
    every = examined("--families", family, "--analyzers", "conformance", "fusion")
    assert {one["case"]["kind"] for one in every} == (
        {"healthy", *KINDS} - OF_ATTENTION_PRODUCTS - absent
    )
    for one in every:
        case = one["case"]
        detectable = case["effect"] is not None and case["effect"]["low"] > 0
        asked = detectable or case["cause"] is None
        assert one["diagnoses"].keys() == ({*BASELINES, "qprobe"} if asked else set())
    healthy = [one["diagnoses"]["qprobe"] for one in every if one["case"]["kind"] == "healthy"]
    assert {cause for said in healthy for _, cause in said["ranked"]} <= {"branch_dead"}
    assert [said["alarm"] for said in healthy] == [family in STARVED] * 2


@pytest.mark.slow
@pytest.mark.skipif(find_spec("monai") is None, reason="needs MONAI to take it away")
def test_a_family_whose_library_is_missing_is_said_to_be_left_out(tmp_path):
    hidden = "import importlib.util as u\nreal = u.find_spec\n"
    hidden += "u.find_spec = lambda name, *a: None if name == 'monai' else real(name, *a)\n"
    (tmp_path / "sitecustomize.py").write_text(hidden)
    done = run("--families", "monai-unet", path=[str(tmp_path)])
    assert done.stderr.splitlines() == ["monai-unet left out: monai is not installed."]
