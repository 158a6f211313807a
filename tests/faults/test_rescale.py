import pytest
import torch
from torch import nn

from qprobe.faults import plant
from qprobe.quant import convert

LAYERS = {
    "rows": (lambda: nn.Linear(8, 4), (6, 8), 1),
    "tokens": (lambda: nn.Linear(8, 4), (3, 6, 8), 2),
    "windows": (lambda: nn.Linear(8, 4), (3, 2, 6, 8), 3),
    "image": (lambda: nn.Conv2d(8, 4, 3, padding=1), (3, 8, 5, 5), 1),
    "lone image": (lambda: nn.Conv2d(8, 4, 3, padding=1), (8, 5, 5), 0),
    "volume": (lambda: nn.ConvTranspose3d(8, 4, 2, stride=2), (2, 8, 3, 3, 3), 1),
}


def watched(name):
    """A layer with a hook that was there before anything is planted."""
    make, shape, axis = LAYERS[name]
    torch.manual_seed(0)
    model = nn.Sequential(make())
    convert(model, "int4-tensor", layers="all")
    seen = []
    model[0].register_forward_hook(lambda _, args, y: seen.append((args[0], y)))
    return model, torch.randn(shape), axis, seen


@pytest.mark.parametrize("name", LAYERS)
def test_one_channel_grows_and_its_weights_shrink(name):
    model, x, axis, seen = watched(name)
    weight = model[0].weight.detach().clone()
    with plant(model, "channel-outlier", "0", strength=32.0, seed=5):
        model(x)
        ratio = seen[0][0] / x
        columns = (model[0].weight / weight).detach()
    others = [a for a in range(x.dim()) if a != axis]
    assert sorted(ratio.amax(others).tolist()) == pytest.approx([1.0] * 7 + [32.0])
    inputs = 0 if isinstance(model[0], nn.ConvTranspose3d) else 1
    flat = columns.movedim(inputs, 0).flatten(1)
    at = int(ratio.amax(others).argmax())
    assert torch.allclose(flat[at], torch.tensor(1 / 32))
    assert torch.allclose(flat[[c for c in range(8) if c != at]], torch.tensor(1.0))


@pytest.mark.parametrize("name", LAYERS)
def test_one_position_of_each_sample_stands_out(name):
    model, x, axis, seen = watched(name)
    with plant(model, "spatial-outlier", "0", strength=16.0, seed=5):
        model(x)
    moved = (seen[0][0] - x).movedim(axis, -1)
    assert torch.allclose(moved.abs().amax(), 16.0 * x.abs().amax())
    samples = 1 if name in ("rows", "lone image") else len(x)
    touched = (moved != 0).all(-1)
    assert int(touched.sum()) == samples == int((moved != 0).any(-1).sum())
    if samples > 1:
        assert touched.flatten(1).sum(1).tolist() == [1] * samples


def test_watchers_see_the_output_without_the_spike():
    model, x, _, seen = watched("tokens")
    convert(model, "int8-tensor", layers="all")
    exact = model(x)
    with plant(model, "spatial-outlier", "0", strength=2.0):
        inside = model(x)
    assert torch.equal(seen[-1][1], inside)
    assert (inside - exact).norm() / exact.norm() < 0.2


def test_a_call_inside_another_takes_back_its_own_spike():
    model, x, _, _ = watched("tokens")
    model.double()
    convert(model, "bf16")
    exact = model(x.double())
    convert(model, "int4-tensor", layers="all")
    with plant(model, "spatial-outlier", "0"):
        convert(model, "bf16")  # hooks stay, as in a control
        for _ in range(3):
            assert torch.allclose(model(x.double()), exact, rtol=1e-12, atol=1e-12)
        convert(model, "int4-tensor", layers="all")
