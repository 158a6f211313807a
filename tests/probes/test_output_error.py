"""The noise of outputs, against the difference of two layers and by hand."""

import copy

import pytest
import torch
from torch import nn

import qprobe
from qprobe.errors import InputError
from qprobe.probes.output_error import OutputError, ways
from qprobe.quant import NVFP4, Gemm, QuantRecipe, QuantSpec, convert, override
from qprobe.quant.products import LinearKernel, Setup


def measured(model, x, g, name="output_error"):
    with qprobe.attach(model, probes=[name], every=1, evaluation=True) as session:
        (model(x) * g).sum().backward()
        session.step()
    return {one.key: one.value for one in session.records() if one.probe == "output_error"}


def layers(name):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1))
    convert(layer, name, layers="all")
    x = torch.randn(4, 16, 6, 6)
    x[:, 3] *= 30.0
    return layer, x, torch.randn(4, 8, 6, 6)


@pytest.mark.parametrize("name", ["nvfp4", "int4-channel-token", "int4-tensor"])
def test_noise_and_loss_are_those_of_two_layers(name):
    layer, x, g = layers(name)
    found = measured(layer, x, g)
    plain = copy.deepcopy(layer)
    override(plain, {"0": "bf16"})
    with torch.no_grad():
        change = (layer(x) - plain(x)).double()
        y = layer(x).double()
    signal = (y - y.mean((0, 2, 3), keepdim=True)).square().sum()
    felt = (change * g).flatten(1).sum(1)
    assert found["as_it_is.noise_share"] == pytest.approx(float(change.square().sum() / signal))
    assert found["as_it_is.loss_change"] == pytest.approx(float(felt.mean()), rel=1e-4)
    assert found["as_it_is.loss_scatter"] == pytest.approx(
        float(felt.square().mean() / 2), rel=1e-4
    )
    assert found["intended.noise_share"] == found["as_it_is.noise_share"]
    assert (found["n"], found["elements"]) == (4, y.numel())


@pytest.mark.parametrize("name", ["nvfp4", "int4-tensor"])
def test_smoothing_is_that_of_the_transform_and_helps_against_a_channel(name):
    layer, x, g = layers(name)
    found = measured(layer, x, g)
    plain, conv = copy.deepcopy(layer), layer[0]
    override(plain, {"0": "bf16"})
    factors = (x.abs().amax((0, 2, 3)) / conv.weight.detach().abs().amax((0, 2, 3))).sqrt()
    smooth = copy.deepcopy(layer)
    with torch.no_grad():
        smooth[0].weight.mul_(factors.view(1, -1, 1, 1))
        change = smooth(x / factors.view(-1, 1, 1)) - plain(x)
        y = layer(x)
    signal = (y - y.mean((0, 2, 3), keepdim=True)).square().sum()
    expected = float(change.square().sum() / signal)
    assert found["smoothed.noise_share"] == pytest.approx(expected, rel=1e-3)
    assert found["smoothed.noise_share"] < found["intended.noise_share"]


def test_one_operand_in_high_precision_leaves_the_noise_of_the_other():
    layer, x, g = layers("int4-tensor")
    found = measured(layer, x, g)
    with torch.no_grad():
        layer[0].weight.zero_()  # nothing to round in a weight of zeros
    zero = measured(layer, x, g)
    assert zero.get("x_high.noise_share") is None  # no signal, no share
    assert found["x_high.noise_share"] + found["w_high.noise_share"] == pytest.approx(
        found["intended.noise_share"], rel=0.5
    )


def test_the_ways_are_those_that_the_recipe_leaves():
    kernel = LinearKernel(torch.empty(4, 4))
    blocks = QuantSpec(format=NVFP4)

    def names(**fprop):
        recipe = QuantRecipe(name="r", fprop=Gemm(**fprop), summary="s", reference="r")
        return set(ways(Setup(recipe=recipe), kernel))

    always = {"as_it_is", "intended", "without_channels", "without_tokens"}
    both = always | {"x_high", "w_high", "smoothed"}
    assert names(a=blocks, b=blocks) == both | {"rotated"}
    assert names(a=blocks, b=blocks, hadamard=16) == both
    assert names(b=blocks) == always | {"w_high"}


def test_without_its_channel_a_layer_has_the_noise_of_a_layer_without_it():
    layer, x, g = layers("int4-tensor")
    found = measured(layer, x, g)
    others = [k for k in range(16) if k != 3]
    small = nn.Sequential(nn.Conv2d(15, 8, 3, padding=1))
    with torch.no_grad():
        small[0].weight.copy_(layer[0].weight[:, others])
        small[0].bias.zero_()
    plain = copy.deepcopy(small)
    convert(small, "int4-tensor", layers="all")
    with torch.no_grad():
        noise = (small(x[:, others]) - plain(x[:, others])).double().square().sum()
        y = layer(x).double()
    signal = (y - y.mean((0, 2, 3), keepdim=True)).square().sum()
    assert found["without_channels.noise_share"] == pytest.approx(float(noise / signal), rel=1e-3)
    assert found["without_channels.noise_share"] < found["intended.noise_share"] / 10


def test_without_its_token_a_layer_has_the_noise_of_the_other_tokens():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(32, 8))
    convert(layer, "int4-tensor", layers="all")
    x = torch.randn(4, 9, 32)
    x[:, 5] *= 40.0
    found = measured(layer, x, torch.randn(4, 9, 8))
    plain = copy.deepcopy(layer)
    override(plain, {"0": "bf16"})
    others = [k for k in range(9) if k != 5]
    with torch.no_grad():
        noise = (layer(x[:, others]) - plain(x[:, others])).double().square().sum()
        y = layer(x).double()
    signal = (y - y.mean((0, 1), keepdim=True)).square().sum()
    assert found["without_tokens.noise_share"] == pytest.approx(float(noise / signal), rel=1e-3)
    assert found["without_tokens.noise_share"] < found["intended.noise_share"] / 10


def test_a_layer_in_high_precision_is_not_looked_at():
    layer, x, g = layers("nvfp4")
    override(layer, {"0": "bf16"})
    with pytest.raises(InputError, match="no recipe in force"):
        measured(layer, x, g)
    assert measured(layer, x, g, OutputError("nvfp4"))["as_it_is.noise_share"] > 0


class Conv1D(nn.Module):
    """As the library of that name has it: a linear layer that stores its weight ``[in, out]``."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, linear):
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().T.contiguous())
        self.bias = nn.Parameter(linear.bias.detach().clone())

    def forward(self, x):
        return x @ self.weight + self.bias


def test_a_layer_that_stores_its_weight_transposed_has_the_same_noise():
    torch.manual_seed(0)
    linear, x = nn.Linear(32, 48), torch.randn(4, 5, 32)
    found = []
    for layer in (linear, Conv1D(linear)):
        model = nn.Sequential(layer, nn.GELU())
        with qprobe.attach(model, probes=[OutputError(recipe="nvfp4")]) as session:
            model(x).square().sum().backward()
            session.step()
        found.append({r.key: r.value for r in session.records() if r.probe == "output_error"})
    assert "smoothed.noise_share" in found[0]
    assert found[1] == pytest.approx(found[0], rel=1e-4)
