"""What every transform promises: the function, the state and the way back."""

import copy
import io

import pytest
import torch
from quant.ptq.layers_under_test import LAYERS, in_high_precision, quantized, sqnr
from torch import nn

from qprobe.errors import InputError
from qprobe.quant import convert, override
from qprobe.quant.ptq import input_amax, rotate, smooth, svd


def apply(transform, model, x):
    if transform == "smooth":
        return smooth(model, "0", input_amax(model, ["0"], lambda: model(x))["0"])
    return {"rotate": rotate, "svd": svd}[transform](model, "0")


TRANSFORMS = ("smooth", "rotate", "svd")
each_transform = pytest.mark.parametrize("transform", TRANSFORMS)


@each_transform
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_the_function_in_high_precision_is_unchanged(transform, name, dtype, limit):
    model, x = quantized(name, dtype=dtype)
    in_high_precision(model)
    plain = copy.deepcopy(model)
    convert(plain, "bf16")
    with apply(transform, model, x) as applied:
        assert applied.transform == transform
        difference = (model(x) - plain(x)).norm() / plain(x).norm()
    assert difference <= limit


@each_transform
@pytest.mark.parametrize("name", LAYERS)
def test_the_layer_comes_back_to_the_bit(transform, name):
    model, x = quantized(name)
    before, setup, state = model(x), model[0].setup, copy.deepcopy(model.state_dict())
    with apply(transform, model, x):
        assert not torch.equal(model(x), before)
        for key, value in model.state_dict().items():  # a transform is no change of parameters
            assert torch.equal(value, state[key])
    assert torch.equal(model(x), before)
    assert model[0].setup is setup
    assert not model[0]._forward_hooks


@each_transform
@pytest.mark.parametrize("recipe", ["int4-tensor", "int4-channel-token", "nvfp4"])
def test_gradients_flow_as_under_the_recipe(transform, recipe):
    model, x = quantized("linear", recipe, outliers=False)
    plain = copy.deepcopy(model)
    convert(plain, "bf16")
    plain(x).square().sum().backward()
    with apply(transform, model, x):
        model(x).square().sum().backward()
    ours, theirs = model[0].weight.grad, plain[0].weight.grad
    assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.95


@each_transform
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_in_high_precision_are_those_of_the_plain_layer(transform, name):
    """The backward products of integer recipes reuse fprop's values: these are in x's own basis."""
    model, x = quantized(name, dtype=torch.float64)
    in_high_precision(model)
    plain = copy.deepcopy(model)
    convert(plain, "bf16")
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    plain(inputs[1]).square().sum().backward()
    with apply(transform, model, x):
        model(inputs[0]).square().sum().backward()
    pairs = [(inputs[0].grad, inputs[1].grad), (model[0].weight.grad, plain[0].weight.grad)]
    for ours, theirs in pairs:
        assert (ours - theirs).norm() / theirs.norm() < 1e-12


#: Gains in dB of the output with planted outliers under int4-tensor, at least.
GAINS = {
    ("smooth", "linear"): 14.0,
    ("smooth", "conv2d"): 12.0,
    ("smooth", "transposed grouped"): 14.0,
    ("rotate", "linear"): 4.0,
    ("rotate", "conv2d"): 1.5,
    ("rotate", "transposed 2d"): 1.5,
    ("svd", "conv2d"): 2.0,
}


@pytest.mark.parametrize(("transform", "name"), GAINS)
def test_planted_outliers_cost_less(transform, name):
    model, x = quantized(name)
    with torch.no_grad():  # so that the outlier carries no more of the output than others
        channels = model[0].weight.movedim(0 if "transposed" in name else 1, 0)
        channels[3] /= 20.0
    plain = copy.deepcopy(model)
    convert(plain, "bf16")
    before = sqnr(plain(x), model(x))
    with apply(transform, model, x):
        after = sqnr(plain(x), model(x))
    assert after - before > GAINS[transform, name]


def test_a_low_rank_weight_costs_nothing_of_the_weight():
    model, x = quantized("linear", outliers=False)
    u, v = torch.randn(24, 3), torch.randn(3, 64)
    with torch.no_grad():
        model[0].weight.add_(20.0 * u @ v)
    plain = copy.deepcopy(model)
    convert(plain, "bf16")
    before = sqnr(plain(x), model(x))
    with svd(model, "0", rank=3):
        assert sqnr(plain(x), model(x)) > before + 15.0


@each_transform
def test_an_override_ends_a_transform_and_a_transform_follows_an_override(transform):
    model, x = quantized("linear")
    reference = copy.deepcopy(model)
    applied = apply(transform, model, x)
    override(model, {"0": "int4-tensor"})
    assert torch.equal(model(x), reference(x))
    with pytest.raises(InputError, match="undo what was applied last first"):
        applied.undo()
    override(model, {"0": "bf16"})
    with pytest.raises(InputError, match=r"0 is a Linear in high precision; put it under a recipe"):
        apply(transform, model, x)
    override(model, {"0": "int8-tensor"})
    with apply(transform, model, x):
        assert model[0].recipe.name == "int8-tensor"


@pytest.mark.parametrize("inner", TRANSFORMS)
@each_transform
def test_transforms_stack_and_come_off_in_turn(transform, inner):
    model, x = quantized("conv2d", dtype=torch.float64)
    in_high_precision(model)
    exact = model(x)
    first = apply(transform, model, x)
    second = apply(inner, model, x)
    assert (model(x) - exact).norm() / exact.norm() < 1e-12
    with pytest.raises(InputError, match="undo what was applied last first"):
        first.undo()
    second.undo()
    first.undo()
    assert torch.equal(model(x), exact)
    first.undo()  # once is enough


@each_transform
def test_a_copy_of_a_transformed_model_is_transformed(transform):
    model, x = quantized("linear")
    with apply(transform, model, x):
        inside = model(x)
        twin = copy.deepcopy(model)
    assert torch.equal(twin(x), inside)
    assert not torch.equal(model(x), inside)


@each_transform
def test_a_saved_model_is_the_plain_one(transform):
    model, x = quantized("linear")
    plain = copy.deepcopy(model)
    convert(plain, "bf16")
    buffer = io.BytesIO()
    with apply(transform, model, x):
        torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    plain.load_state_dict(torch.load(buffer, weights_only=True))


@pytest.mark.parametrize("transform", [rotate, svd])
def test_what_cannot_be_transformed_is_named(transform):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(InputError, match=r"no module 'head'; its layers are 0\."):
        transform(model, "head")
    with pytest.raises(InputError, match="1 is a ReLU in high precision"):
        transform(model, "1")
