import numpy as np
import pytest
import torch
from flatness import (
    Effort,
    along_gradients,
    costs,
    costs_by_layer,
    curvature,
    filter_scale,
    replica_of,
    weight_change,
)
from torch import nn

from qprobe.models import build

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [(torch.randn(2, 3, 16, 16, generator=GENERATOR),) * 1 for _ in range(8)]
BATCHES = [(x, (x[:, :1] > 0.5).float()) for (x,) in BATCHES]
EFFORT = Effort(draws=4, steps=6)


@pytest.fixture(scope="module")
def model():
    return build("cnn", "tiny", image=16, channels=8, stages=3).eval()


@pytest.fixture(scope="module")
def changes(model):
    return {name: weight_change(model, name) for name in ("nvfp4", "int4-tensor")}


def rescaled(model, factor):
    """The same function: the filters before a batch norm are larger, its statistics with them."""
    twin = build("cnn", "tiny", image=16, channels=8, stages=3).eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for stage in (*twin.encoder, *twin.decoder):
            stage.conv.weight.mul_(factor)
            stage.conv.bias.mul_(factor)
            stage.norm.running_mean.mul_(factor)
            stage.norm.running_var.mul_(factor**2)
            stage.norm.eps *= factor**2
    return twin


def test_the_scale_of_a_filter_changes_the_trace_and_not_the_normalised_one(model, changes):
    names = list(changes["nvfp4"])
    plain = curvature(replica_of(model, BATCHES), names, EFFORT, seed=0)
    larger = curvature(replica_of(rescaled(model, 4.0), BATCHES), names, EFFORT, seed=0)
    one, other = (found["normalised"]["trace"]["estimate"] for found in (plain, larger))
    assert other == pytest.approx(one, rel=1e-3)
    assert abs(larger["hessian"]["top"][0]) < 0.9 * abs(plain["hessian"]["top"][0])


def test_the_cost_of_a_relative_error_does_not_depend_on_the_scale(model, changes):
    twin = rescaled(model, 4.0)
    moved = {name: 4.0 * value for name, value in changes["nvfp4"].items()}
    mine = costs(replica_of(model, BATCHES), {"nvfp4": changes["nvfp4"]}, ())["nvfp4"]
    theirs = costs(replica_of(twin, BATCHES), {"nvfp4": moved}, ())["nvfp4"]
    for key in ("first", "second", "measured"):
        assert theirs[key] == pytest.approx(mine[key], rel=2e-2, abs=1e-6)


def test_small_changes_cost_what_the_expansion_predicts(model, changes):
    found = costs(replica_of(model, BATCHES), changes, (0.05, 0.1))
    for row in found.values():
        for scaled in row["scaled"]:
            assert scaled["measured"] == pytest.approx(scaled["predicted"], rel=0.1, abs=2e-6)


def test_the_costs_of_layers_have_the_gradient_and_curvature_of_the_whole(model, changes):
    replica = replica_of(model, BATCHES)
    rows = costs_by_layer(replica, changes["nvfp4"])
    whole = costs(replica, {"nvfp4": changes["nvfp4"]}, ())["nvfp4"]
    assert [row["weight"] for row in rows] == list(changes["nvfp4"])
    assert sum(row["first"] for row in rows) == pytest.approx(whole["first"], rel=1e-3, abs=1e-7)
    first = rows[0]
    name = first["weight"]
    alone = costs(replica, {name: {name: changes["nvfp4"][name]}}, ())[name]
    assert first["second"] == pytest.approx(alone["second"], rel=1e-3, abs=1e-8)


def test_a_gradient_in_high_precision_has_no_error(model):
    found = along_gradients(replica_of(model, BATCHES), model, ("bf16", "int4-tensor"))
    assert found["bf16"]["error"] == pytest.approx(0, abs=1e-9)
    assert found["int4-tensor"]["error"] > 1e-4


def test_filters_are_those_of_the_outputs():
    replica = replica_of(build("cnn", "tiny", image=16, channels=8, stages=3), BATCHES)
    names = [name for name in replica.names if name.endswith("decoder.0.conv.weight")]
    scale = filter_scale(replica, names)
    sizes = dict(zip(replica.names, replica.values, strict=True))
    kept = scale[scale > 0]
    weight = sizes[names[0]]
    assert isinstance(replica.model.get_submodule("decoder.0.conv"), nn.ConvTranspose2d)
    assert len(kept) == weight.numel()
    expected = weight.detach()[:, 3].square().mean().sqrt()
    assert np.isclose(float(kept.view_as(weight)[0, 3, 0, 0]), float(expected))
