from dataclasses import replace

import pytest
import torch
from quant.ptq.layers_under_test import quantized
from torch import nn

from qprobe.errors import InputError
from qprobe.quant import Gemm, convert
from qprobe.quant.ptq import input_amax, migrate, smooth
from qprobe.quant.ptq.smoothing import factors

PRODUCERS = {
    "layer norm": (lambda: nn.LayerNorm(16), lambda: nn.Linear(16, 8), (3, 5, 16)),
    "linear": (lambda: nn.Linear(4, 16), lambda: nn.Linear(16, 8), (3, 5, 4)),
    "batch norm": (lambda: nn.BatchNorm2d(16), lambda: nn.Conv2d(16, 8, 3), (2, 16, 6, 6)),
    "convolution": (
        lambda: nn.Conv2d(4, 16, 3),
        lambda: nn.Conv2d(16, 8, 3, groups=2),
        (2, 4, 8, 8),
    ),
    "grouped": (lambda: nn.Conv2d(4, 16, 1, groups=2), lambda: nn.Conv2d(16, 8, 1), (2, 4, 4, 4)),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 16, 2, groups=2),
        lambda: nn.ConvTranspose2d(16, 8, 2, groups=4),
        (2, 4, 4, 4),
    ),
}


def made(name):
    producer, consumer, shape = PRODUCERS[name]
    torch.manual_seed(0)
    model = nn.Sequential(producer(), nn.ReLU(), consumer()).double().eval()
    with torch.no_grad():
        model[0].weight.mul_(torch.rand_like(model[0].weight) + 0.5)
        model[0].bias.add_(torch.randn_like(model[0].bias))
    return model, torch.randn(shape, dtype=torch.float64)


def spread(amax):
    """The largest channel over the smallest that ever fires."""
    return amax.max() / amax[amax > 0].min()


@pytest.mark.parametrize("name", PRODUCERS)
def test_factors_go_into_the_producer_and_the_function_stays(name):
    model, x = made(name)
    exact, state = model(x), {k: v.clone() for k, v in model.state_dict().items()}
    amax = input_amax(model, ["2"], lambda: model(x))["2"]
    with smooth(model, "2", amax, into="0"):
        assert (model(x) - exact).norm() / exact.norm() < 1e-12
        after = input_amax(model, ["2"], lambda: model(x))["2"]
        assert spread(after) < spread(amax)
        assert not torch.equal(model[0].weight, state["0.weight"])
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


def test_the_published_formula():
    found = factors(torch.tensor([8.0, 2.0]), torch.tensor([0.5, 2.0]), alpha=0.5)
    assert found.tolist() == [4.0, 1.0]
    assert factors(torch.tensor([8.0]), torch.tensor([0.5]), alpha=1.0).tolist() == [8.0]


def test_one_producer_of_two_layers():
    torch.manual_seed(0)
    norm, query, key = nn.LayerNorm(8), nn.Linear(8, 4), nn.Linear(8, 4)
    model = nn.ModuleDict({"norm": norm, "q": query, "k": key}).double()
    x = torch.randn(3, 8, dtype=torch.float64)
    before = query(norm(x)), key(norm(x))
    with migrate(model, "norm", ["q", "k"], torch.linspace(0.5, 4.0, 8).double()):
        after = query(norm(x)), key(norm(x))
    for one, other in zip(before, after, strict=True):
        assert (one - other).abs().max() < 1e-14


def test_the_conv1d_of_transformers():
    conv1d = pytest.importorskip("transformers").pytorch_utils.Conv1D
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(8), conv1d(12, 8)).double()
    x = torch.randn(3, 8, dtype=torch.float64)
    exact = model(x)
    with smooth(model, "1", torch.linspace(0.5, 9.0, 8), into="0"):
        assert (model(x) - exact).norm() / exact.norm() < 1e-12


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m: smooth(m, "2", torch.ones(3)), "has 16 input channels and needs as many"),
        (lambda m: smooth(m, "2", torch.full((16,), torch.inf)), "as many finite amax"),
        (lambda m: smooth(m, "2", torch.ones(16), alpha=2.0), "a share between 0 and 1, got 2"),
        (lambda m: smooth(m, "1", torch.ones(16)), "1 is a ReLU, not a linear or a convolution"),
        (lambda m: smooth(m, "2", torch.ones(16), into="1"), "1 has no weight of its own"),
        (lambda m: migrate(m, "2", ["2"], torch.ones(16)), "2 has 8 output channels"),
        (lambda m: migrate(m, "0", ["0"], torch.ones(16)), "0 has 4 input channels"),
        (lambda m: smooth(m, "2", torch.ones(16)), "2 is a Linear in high precision"),
    ],
)
def test_refusals(call, sentence):
    model, _ = made("linear")
    with pytest.raises(InputError, match=sentence):
        call(model)


def test_a_recipe_without_a_quantized_forward_pass_is_refused():
    model, _ = quantized("linear", "nvfp4")

    convert(model, replace(model[0].recipe, name="backward", fprop=Gemm()), layers="all")
    with pytest.raises(InputError, match="leaves the forward product in high precision"):
        smooth(model, "0", torch.ones(64))
