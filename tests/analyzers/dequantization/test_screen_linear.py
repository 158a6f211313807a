"""Linear layers in bfloat16 against the same layers in float32."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qprobe.analyzers.base import Subject
from qprobe.analyzers.dequantization.layers import quantized_layers
from qprobe.analyzers.dequantization.screen import screen
from qprobe.analyzers.dequantization.screen_linear import weights_of
from qprobe.analyzers.scores import MeanLoss
from qprobe.inference import kendall_tau
from qprobe.models import build
from qprobe.quant import convert, recipe
from qprobe.quant.linear_native import usable
from qprobe.quant.products import LinearKernel
from qprobe.quant.remembering import remembering

pytestmark = pytest.mark.skipif(
    not usable(torch.ones(1, 1)), reason="this processor does not multiply bfloat16"
)


def squared(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (output - batch[1]).flatten(1).square().sum(1)


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def subject(model: nn.Module, name: str, *shape: int) -> Subject:
    convert(model.eval(), name, layers="all")
    x = numbers(*shape, seed=0)
    with torch.no_grad():
        target = model(x)
    batch = (x, target + numbers(*target.shape, seed=1))
    return Subject(
        model=model,
        recipe=recipe(name),
        batches=lambda: [batch],
        loss=squared,
        score=MeanLoss(loss=squared),
    )


def both(one: Subject) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Inner products of each layer and operand in float32 and in bfloat16."""
    layers = quantized_layers(one.model)
    plain = screen(one, layers)
    with remembering(one.model.modules()):
        quick = screen(one, layers)
    assert list(plain) == list(quick)
    for path, found in plain.items():
        assert list(quick[path].products) == list(found.products)
        for operand, products in found.products.items():
            yield path, operand, products, quick[path].products[operand]


@pytest.mark.parametrize("name", ["nvfp4", "int4-tensor", "int4-channel-token"])
@pytest.mark.parametrize("widths", [(48, 16), (16, 48)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_screened_up_to_roundings(name, widths, bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(*widths, bias=bias))
    for _, operand, plain, quick in both(subject(model, name, 6, 50, widths[0])):
        # 50·16 products or more: their roundings, 2^-9 each, average out.
        assert quick == pytest.approx(plain, abs=0.02 * np.abs(plain).max()), operand
        assert not np.array_equal(plain, quick)


@pytest.mark.parametrize(("arch", "name"), [("vit", "nvfp4"), ("swin", "int4-channel-token")])
def test_layers_of_a_model_are_ordered_as_in_float32(arch, name):
    torch.manual_seed(0)
    model = build(arch, "tiny", image=32, in_channels=1)
    found = list(both(subject(model, name, 4, 1, 32, 32)))
    plain, quick = (np.array([one[which].mean() for one in found]) for which in (2, 3))
    assert quick == pytest.approx(plain, abs=0.02 * np.abs(plain).max())
    assert kendall_tau(plain, quick).estimate > 0.98


def test_a_layer_that_is_called_twice_adds_up():
    torch.manual_seed(0)
    layer = nn.Linear(32, 32)
    for _, _, plain, quick in both(subject(nn.Sequential(layer, layer), "nvfp4", 4, 60, 32)):
        assert quick == pytest.approx(plain, abs=0.02 * np.abs(plain).max())


def test_the_model_is_screened_where_it_is_evaluated():
    """The loss sees the outputs of the kernel that evaluates, to the bit."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 8))
    one = subject(model, "nvfp4", 3, 20, 32)
    seen = []

    def watched(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        seen.append(output.detach())
        return squared(output, batch)

    with remembering(model.modules()):
        screen(replace(one, loss=watched), quantized_layers(model))
        with torch.no_grad():
            assert torch.equal(seen[0], model(one.batches()[0][0]))


def test_only_a_remembered_weight_is_multiplied_in_bfloat16():
    model = nn.Sequential(nn.Linear(32, 32))
    convert(model, "nvfp4", layers="all")
    kernel = LinearKernel(model[0].weight)
    assert weights_of(model[0].weight, kernel, model[0].setup) is None
    with remembering(model.modules()):
        found = weights_of(model[0].weight, kernel, model[0].setup)
    assert found is not None
    total = found.rounded.float() + found.error.float()
    assert total == pytest.approx(model[0].weight.detach(), abs=1e-3)
