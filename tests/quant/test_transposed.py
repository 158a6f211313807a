"""The Conv1D of transformers under a recipe, held against a linear layer with the same weight."""

import copy
import pickle

import pytest
import torch
from torch import nn

from qprobe.analyzers.base import Subject
from qprobe.analyzers.dequantization.layers import quantized_layers
from qprobe.analyzers.dequantization.screen import screen
from qprobe.analyzers.scores import MeanLoss
from qprobe.quant import convert, override
from qprobe.quant.catalogue import recipe
from qprobe.quant.ptq import input_amax, smooth, svd
from qprobe.quant.remembering import Remembering, remembering
from qprobe.quant.weight_error import weight_error
from qprobe.sites import discover, select

RECIPES = ("nvfp4", "nvfp4-2d-rht", "nvfp4-chain", "int4-tensor", "int4-channel-token")


class Conv1D(nn.Module):
    """As the library of that name has it."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(0.1 * torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def __repr__(self):
        return f"Conv1D(nf={self.nf}, nx={self.nx})"

    def forward(self, x):
        return x @ self.weight + self.bias


@pytest.fixture(params=["written here", "transformers"])
def kind(request):
    """The class, which the library does not have to be there for."""
    if request.param == "written here":
        return Conv1D
    return pytest.importorskip("transformers.pytorch_utils").Conv1D


def pair(kind: type[nn.Module], name: str) -> tuple[nn.Sequential, nn.Sequential]:
    """The same model of both kinds of layer, whose sums may be rounded in another order."""
    torch.manual_seed(0)
    stored = nn.Sequential(kind(64, 48), nn.ReLU(), kind(32, 64), nn.ReLU(), kind(32, 32))
    linear = copy.deepcopy(stored)
    for at in (0, 2, 4):
        nn.init.normal_(stored[at].bias)
        layer = nn.Linear(stored[at].nx, stored[at].nf)
        layer.load_state_dict({"weight": stored[at].weight.mT, "bias": stored[at].bias})
        linear[at] = layer
    for model in (stored, linear):
        convert(model, name, layers="all")
    return stored, linear


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_products_are_those_of_a_linear_layer(kind, name):
    inputs = torch.randn(3, 10, 48, generator=torch.Generator().manual_seed(1))
    found = []
    for model in pair(kind, name):
        # One layer: a last bit of a sum may otherwise become another code of the next layer.
        x = inputs.clone().requires_grad_()
        y = model[0](x)
        y.square().sum().backward()
        found.append((y, x.grad, model[0].weight.grad, model[0].bias.grad, weight_error(model[0])))
    stored, linear = found
    for at, turned in enumerate((False, False, True, False, True)):
        close(stored[at].mT if turned else stored[at], linear[at])


@pytest.mark.parametrize("name", ["nvfp4", "int4-channel-token"])
def test_in_evaluation_too(kind, name):
    x = torch.randn(40, 48)
    stored, linear = pair(kind, name)
    with torch.no_grad(), remembering(stored.modules()), remembering(linear.modules()):
        close(stored[0](x), linear[0](x))
        packed = []
        for model in (stored, linear):
            quantizer = model[0].setup.quantizer
            assert isinstance(quantizer, Remembering)
            packed.append(quantizer._packed)
        assert (packed[0] is None) == (packed[1] is None)
        if packed[0] is not None:
            assert torch.equal(packed[0].weight, packed[1].weight)


def test_a_layer_stays_itself_and_comes_back(kind):
    torch.manual_seed(0)
    model = nn.Sequential(kind(32, 48), nn.ReLU(), kind(8, 32))
    first, before = model[0], copy.deepcopy(model.state_dict())
    assert convert(model, "nvfp4", layers="all").converted == ("0", "2")
    assert model[0] is first
    assert isinstance(first, kind)
    assert repr(first) == "Conv1D(nf=32, nx=48, recipe=nvfp4)"
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    x, copied = torch.randn(4, 48), copy.deepcopy(model)
    assert type(copied[0]) is type(first)
    assert torch.equal(copied(x), model(x))
    override(model, {"*": "bf16"})
    assert type(first) is kind


def test_a_layer_under_a_recipe_is_pickled():
    library = pytest.importorskip("transformers.pytorch_utils")
    model = nn.Sequential(library.Conv1D(32, 48))
    convert(model, "nvfp4", layers="all")
    again = pickle.loads(pickle.dumps(model))  # noqa: S301
    assert type(again[0]) is type(model[0])
    x = torch.randn(4, 48)
    assert torch.equal(again(x), model(x))


def test_a_subclass_with_code_of_its_own_is_left_alone(kind):
    class Adapter(kind):
        def forward(self, x):
            return super().forward(x) + 1

    model = nn.Sequential(Adapter(32, 32))
    assert convert(model, "nvfp4", layers="all").converted == ()


def test_its_sites_are_those_of_a_linear(kind):
    stored, linear = pair(kind, "nvfp4")
    assert discover(stored) == discover(linear)
    assert len(select(discover(stored), kind="linear")) == 15


@pytest.mark.parametrize("transform", [smooth, svd])
def test_transforms_are_those_of_a_linear_layer(kind, transform):
    x = torch.randn(40, 48)
    outputs = []
    for model in pair(kind, "int4-tensor"):
        given = {"amax": input_amax(model, ["0"], lambda: model(x))["0"]}  # noqa: B023
        transform(model, "0", **(given if transform is smooth else {}))
        outputs.append(model[0](x))
    close(*outputs)
    assert not torch.equal(outputs[0], pair(kind, "int4-tensor")[0][0](x))


def test_a_screen_says_of_it_what_it_says_of_a_linear_layer(kind):
    batch = torch.randn(16, 48), torch.randn(16, 32)

    def loss(y, batch):
        return (y - batch[1]).square().mean(1)

    found = []
    for model in pair(kind, "nvfp4"):
        del model[1:]
        model.append(nn.Linear(64, 32))
        torch.manual_seed(2)
        model[1].reset_parameters()
        subject = Subject(
            model=model.eval(), recipe=recipe("nvfp4"), batches=lambda: [batch], loss=loss,
            score=MeanLoss(loss=loss), forward=lambda m, b: m(b[0]),
        )  # fmt: skip
        found.append(screen(subject, quantized_layers(model))["0"].products)
    for operand, products in found[1].items():
        assert found[0][operand] == pytest.approx(products, rel=1e-3, abs=1e-7)
