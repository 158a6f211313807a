import curvature
import pytest
import torch
from curvature import BATCH, BATCHES, Watch, cells, mean_loss, measure

from qprobe.engine import TrainConfig, train

DATA = {"patients": 12, "slices": 12}


@pytest.fixture
def config(tmp_path):
    def make(**changes):
        given = dict(cells("cpu")[0].settings["config"])
        given |= {"image": 16, "steps": 6, "warmup": 2, "validation": 2.0, "test": 2.0}
        given |= {"model": {"stages": 2, "channels": 8}}
        given["data_options"] = {**DATA, "cache": str(tmp_path / "cache")}
        return {**given, **changes}

    return make


def test_the_level_is_the_first_look_at_or_below_it(config, tmp_path):
    high, never = Watch(level=1e3), Watch(level=0.0)
    train(TrainConfig.of(config()), tmp_path / "run", callbacks=[high, never])
    assert high.first["step"] == 5
    assert high.last["step"] == never.last["step"] == 6
    assert never.first == {}
    assert [step for step, _ in high.losses] == [5, 6]
    assert sum(len(image) for image, _ in high.batches) == BATCH * BATCHES
    assert not torch.equal(high.first["model"]["head.weight"], high.last["model"]["head.weight"])


def test_a_look_leaves_the_mode_of_the_model(config, tmp_path):
    watch = Watch(level=0.0)
    train(TrainConfig.of(config()), tmp_path / "run", callbacks=[watch])
    model = torch.nn.Conv2d(3, 1, 1)
    assert model.training
    assert mean_loss(model, watch.batches) > 0
    assert model.training


def test_a_cell_measures_both_states(config, tmp_path, monkeypatch):
    monkeypatch.setattr(curvature, "FACTORS", ())
    monkeypatch.setattr(curvature, "GRADIENTS", ("nvfp4",))
    monkeypatch.setattr(curvature, "CONTROLS", ("int4-tensor",))
    one = cells("cpu")[0]
    given = {**one.settings, "config": config(model={"channels": 8, "stages": 3}), "level": 1e3}
    given |= {"draws": 2, "steps": 2}
    small = type(one)(stage=one.stage, key=one.key, settings=given, estimate_s=1.0)
    found = measure(small, tmp_path)
    assert (found["arch"], found["seed"]) == ("cnn", 0)
    for state in ("level", "end"):
        around = found[state]
        # Recipes whose forward weights are alike share one row.
        assert around["same"]["nvfp4-sr"] == around["same"]["nvfp4-chain"] == "nvfp4"
        assert around["same"]["nvfp4-2d-rht-sr"] == "nvfp4-2d-rht"
        assert set(around["costs"]) == set(around["same"].values())
        assert around["costs"]["nvfp4"]["measured"] == pytest.approx(
            around["costs"]["nvfp4"]["predicted"], abs=0.02
        )
