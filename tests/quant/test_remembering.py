import pytest
import torch
from torch import nn

from qprobe.errors import InputError
from qprobe.quant import convert
from qprobe.quant.products import faithful
from qprobe.quant.remembering import Remembering, quantizers, remembering


class Counting:
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, x, operand, role, generator):
        self.asked.append(f"{role.gemm} {role.operand}")
        return faithful(x, operand, role, generator)


def convolution() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    convert(model, "int4-tensor", layers="all")
    return model


def test_a_weight_is_quantized_once():
    model, counting = convolution(), Counting()
    with torch.no_grad(), quantizers({model[0]: Remembering(counting)}):
        for _ in range(3):
            model(torch.randn(1, 3, 8, 8))
    assert sorted(counting.asked) == ["fprop w", "fprop x", "fprop x", "fprop x"]


def test_a_weight_that_changes_outside_is_seen():
    model, x = convolution(), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        for factor in (1.0, 3.0):
            model[0].weight *= factor
            want = model(x)
            with remembering(model.modules()):
                assert torch.equal(model(x), want)


def test_setups_come_back_whatever_happens():
    model = convolution()
    before = [module.setup for module in (model[0], model[2])]
    with pytest.raises(InputError, match="takes"), remembering(model.modules()):
        model(torch.randn(3))
    assert [model[0].setup, model[2].setup] == before


def test_gradients_are_those_of_the_layer():
    model, x = convolution(), torch.randn(1, 3, 8, 8)
    model(x).sum().backward()
    want = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with remembering(model.modules()):
        model(x).sum().backward()
    assert all(torch.equal(p.grad, w) for p, w in zip(model.parameters(), want, strict=True))
