import gradient_noise
import pytest
from gradient_noise import DRAWN, FIXED, SEEDS, WIDTHS, cells
from protocol import settings

from qprobe.engine import TrainConfig
from qprobe.engine.workbench import prepare


def test_every_width_is_measured_at_the_start_and_late_on_trainings_that_exist():
    found = {cell.key: cell for cell in cells("cpu")}
    for width in WIDTHS:
        for seed in SEEDS:
            assert found[f"init-w{width}-s{seed}"].needs == found[f"late-w{width}-s{seed}"].needs
    assert found["late-w32-s0"].needs == ("grid/cnn-tiny-bf16-s0",)
    assert found["late-w64-s0"].needs == ("wide/cnn-500k-bf16-s0",)
    own = {need for cell in found.values() for need in cell.needs if "gradient" in need}
    assert own == {f"gradient_noise/{key}" for key in found if key.startswith("train-")}


def test_one_model_is_measured_under_every_recipe(tmp_path):
    config = dict(settings("cpu", "cnn", "tiny", "bf16", seed=0)["config"])
    config |= {"image": 32, "batch": 4, "validation": 2.0, "test": 2.0}
    config["model"] = {"dropout": 0.1, "channels": 16}
    config["data_options"] = {"patients": 12, "slices": 6, "cache": str(tmp_path)}
    bench = prepare(TrainConfig.of(config))
    found = gradient_noise._noise(bench, {"batches": 2, "draws": 2, "seed": 0})
    assert set(found["recipes"]) == {*FIXED, *DRAWN}
    assert found["batch"] == 4
    assert found["recipes"]["bf16"]["error"] == 0
    assert found["recipes"]["nvfp4 without tensor scale"]["underflow"] > 0.9
    for name in DRAWN:
        assert "draw_variance" in found["recipes"][name]
    assert found["recipes"]["nvfp4"]["projection"] == pytest.approx(1, abs=0.5)
