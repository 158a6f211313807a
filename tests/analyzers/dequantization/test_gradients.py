"""Gradients that follow by hand, and autograd on plain layers as the slow way."""

from math import inf

import pytest
import torch
from torch import Tensor, nn

from qprobe.analyzers.base import Subject
from qprobe.analyzers.dequantization import Bounds, Dequantization, Search
from qprobe.analyzers.dequantization.emit import Measured
from qprobe.analyzers.dequantization.findings import findings
from qprobe.analyzers.dequantization.gradients import products
from qprobe.analyzers.scores import MeanLoss
from qprobe.quant import convert, fake_quantize, recipe
from qprobe.records.schema import Severity

ONLY = Search(mode="screen", operands=False, sensitivity=False, agreement=0, cumulative=0, draws=64)


def linear(output: Tensor, batch) -> Tensor:
    return (output * batch[1]).sum(1)


def lost(model: nn.Module, batches: list, name: str) -> Measured:
    one = Subject(
        model=model,
        recipe=recipe(name),
        batches=lambda: batches,
        loss=linear,
        score=MeanLoss(loss=linear),
    )
    return Measured(Dequantization(ONLY, Bounds(draws=200)).measure(one))


def test_which_operands_a_recipe_quantizes():
    names = {
        name: [product.name for product in products(recipe(name))]
        for name in ("nvfp4", "nvfp4-fwd", "nvfp4-chain", "int4-tensor")
    }
    assert names["nvfp4"] == ["dgrad dy", "dgrad w", "wgrad dy", "wgrad x"]
    assert names["nvfp4-chain"] == ["dgrad w", "wgrad x"]
    assert names["nvfp4-fwd"] == []
    assert [p.stochastic for p in products(recipe("nvfp4-sr"))] == [True, False, True, False]


@pytest.mark.parametrize("name", ["nvfp4", "nvfp4-chain"])
def test_one_layer_against_its_matrix_products(name):
    """The loss is Σ y·c, so dy is c over the batch; each operand is quantized apart."""
    model = nn.Sequential(nn.Linear(32, 32)).eval()
    batches = [(torch.randn(8, 32), torch.randn(8, 32)) for _ in range(2)]
    convert(model, name, layers="all")
    found = lost(model, batches, name)
    w, rule = model[0].weight.detach(), recipe(name)
    sums = {}
    for x, c in batches:
        dy = c / len(c)
        spec = rule.fprop.a
        quantized = {
            "dgrad w": ("dgrad", dy @ fake_quantize(w, spec, axis=0 if name == "nvfp4" else 1)),
            "wgrad x": ("wgrad", dy.T @ fake_quantize(x, spec, axis=0 if name == "nvfp4" else 1)),
        }
        if name == "nvfp4":
            quantized["dgrad dy"] = ("dgrad", fake_quantize(dy, spec, axis=1) @ w)
            quantized["wgrad dy"] = ("wgrad", fake_quantize(dy, spec, axis=0).T @ x)
        exact = {"dgrad": dy @ w, "wgrad": dy.T @ x}
        for key, (gemm, value) in quantized.items():
            dot, norm = sums.get(key, (0.0, 0.0))
            g = exact[gemm]
            sums[key] = (dot + float((g * value).sum()), norm + float((g * g).sum()))
    for key, (dot, norm) in sums.items():
        assert found.intervals("lost_decrease", key)["0"].estimate == pytest.approx(
            1 - dot / norm, abs=1e-5
        )


def test_stochastic_rounding_loses_nothing_in_the_mean():
    """All of dy is 0.3 of the largest: to nearest it is lost where its block is coarse."""
    model = nn.Sequential(nn.Linear(64, 64)).eval()
    c = torch.full((16, 64), 0.3)
    c[:, ::16] = 16.0  # a block's largest; 0.3/16·6 = 0.11 rounds to 0
    batches = [(torch.randn(16, 64), c)] * 2
    convert(model, "nvfp4-sr", layers="all")
    stochastic = lost(model, batches, "nvfp4-sr").intervals("lost_decrease", "dgrad dy")["0"]
    convert(model, "nvfp4", layers="all")
    nearest = lost(model, batches, "nvfp4").intervals("lost_decrease", "dgrad dy")["0"]
    assert abs(stochastic.estimate) < 0.2 * abs(nearest.estimate)


def test_a_layer_without_a_gradient_is_told_apart():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).eval()
    convert(model, "nvfp4", layers="all")
    found = lost(model, [(torch.randn(4, 16), torch.zeros(4, 16))] * 2, "nvfp4")
    assert found.value("zero_gradient", "0", "wgrad dy") == 1.0
    assert found.interval("lost_decrease", "0", "wgrad dy") is None


def test_one_batch_has_a_value_and_no_interval():
    model = nn.Sequential(nn.Linear(32, 32)).eval()
    convert(model, "nvfp4", layers="all")
    found = lost(model, [(torch.randn(8, 32), torch.randn(8, 32))], "nvfp4")
    assert found.intervals("lost_decrease", "wgrad dy") == {}
    single = found.single("lost_decrease")
    assert set(single) == {("0", f"{g} {o}") for g, o in products_of("nvfp4")}
    told = [one for one in findings(found) if "n = 1 batch, no interval" in one.claim]
    (one,) = told
    assert (one.low, one.high, one.n) == (-inf, inf, 1)
    assert one.effect == max(single.values(), key=abs)
    assert one.severity is Severity.INFO
    assert "at least 2 batches" in one.remedy


def products_of(name):
    return [tuple(product.name.split()) for product in products(recipe(name))]
