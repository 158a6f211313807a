"""The error of operands, against the slow NVFP4 of the oracles and by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import nvfp4 as oracle
from torch import nn

from qprobe.probes.operand_error import OperandError
from qprobe.quant import convert
from qprobe.quant.products import faithful
from qprobe.records.schema import Role

AXES = {"fprop.x": 1, "wgrad.x": 0, "fprop.w": 1, "dgrad.w": 0, "dgrad.dy": 1, "wgrad.dy": 0}


@pytest.fixture
def views(look, generator):
    """A linear layer of sizes that leave partial blocks, with heavy tails on one side."""
    layer = nn.Linear(40, 24, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(24, 40, generator=generator) ** 3)
    x = torch.randn(50, 40, generator=generator).exp()
    x[:, 3] *= 100.0
    dy = torch.randn(50, 24, generator=generator) * torch.rand(50, 1, generator=generator) ** 8
    return look(layer, x, dy)


def scalars(views, role, name):
    state = OperandError(name).observe(views[role])
    return {key: value.item() for key, value in state.scalars().items()}


@pytest.mark.parametrize("name", ["nvfp4", "nvfp4-2d-rht"])
@pytest.mark.parametrize("key", AXES)
def test_every_operand_has_the_error_of_the_slow_reference(name, key, views):
    role = {"x": Role.INPUT, "w": Role.WEIGHT, "dy": Role.GRAD_OUTPUT}[key.partition(".")[2]]
    x = views[role].tensor.numpy()
    rotated = name == "nvfp4-2d-rht" and key.startswith("wgrad")
    if rotated:
        x = rotate(x, AXES[key])
    two_d = name == "nvfp4-2d-rht" and role is Role.WEIGHT
    y = oracle.quantize(x, axis=AXES[key], two_d=two_d).dequant.astype(np.float64)
    found = scalars(views, role, name)
    if not rotated:  # else the product sees what is cut off again
        noise = ((y - x) ** 2).sum()
        assert found[f"{key}.sqnr_db"] == pytest.approx(
            10 * math.log10((x.astype(np.float64) ** 2).sum() / noise), abs=1e-9
        )
    there = x != 0
    assert found[f"{key}.underflow"] == pytest.approx((y[there] == 0).mean(), abs=2e-4)


def rotate(x, axis):
    """The transform of 16 from its definition, with zeros for what is missing of a group."""
    rows = np.moveaxis(x, axis, -1)
    padded = np.zeros((rows.shape[0], -(-rows.shape[1] // 16) * 16), np.float32)
    padded[:, : rows.shape[1]] = rows
    signs = [1 - 2 * (0xD7E8 >> i & 1) for i in range(16)]
    signed = np.array(
        [[signs[i] * (-1) ** bin(i & j).count("1") / 4 for j in range(16)] for i in range(16)]
    )
    turned = (padded.reshape(-1, 16) @ signed).astype(np.float32).reshape(padded.shape)
    return np.moveaxis(turned, -1, axis)


def test_rotation_leaves_the_error_of_the_product_in_its_own_basis(views):
    layer = nn.Linear(40, 24)
    convert(layer, "nvfp4-2d-rht", layers="all")
    view = replace(views[Role.INPUT], module=layer)
    found = OperandError().observe(view).scalars()
    given = {}

    def recorder(x, operand, role, generator):
        given[role.gemm, role.operand] = (x, faithful(x, operand, role, generator))
        return given[role.gemm, role.operand][1]

    layer.setup = replace(layer.setup, quantizer=recorder)
    layer(view.tensor).sum().backward()
    for gemm in ("fprop", "wgrad"):
        x, y = (t.detach().double() for t in given[gemm, "x"])
        expected = 10 * math.log10(x.square().sum() / (y - x).square().sum())
        assert found[f"{gemm}.x.sqnr_db"].item() == pytest.approx(expected, rel=1e-12)


def test_the_axis_is_that_of_the_product(views):
    """A large channel shares blocks with its neighbours in fprop, and with itself in wgrad."""
    found = scalars(views, Role.INPUT, "nvfp4")
    assert found["fprop.x.underflow"] > 3 * found["wgrad.x.underflow"]


def test_numbers_on_the_grid_lose_nothing_and_saturation_is_counted(look):
    layer = nn.Linear(16, 16, bias=False)
    x = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]).repeat(16, 2)
    found = OperandError("nvfp4").observe(look(layer, x)[Role.INPUT]).scalars()
    assert found["fprop.x.sqnr_db"] == math.inf
    assert (found["fprop.x.saturation"], found["fprop.x.underflow"]) == (0, 0)
    # 448 · 6.375/6.4 is rounded down to 446.25 = 416 or 448; a block whose largest is a little
    # above what its scale was rounded down to saturates in that element alone.
    x = torch.full((1, 32), 1.0)
    x[0, 0], x[0, 16] = 6.0, 6.0 * 1.06 / 448 * 16
    found = OperandError("nvfp4").observe(look(nn.Linear(32, 4), x)[Role.INPUT]).scalars()
    result = oracle.quantize(x.numpy())
    limit = result.scale.repeat(16, 1) * 6.0 * 6.0 / 2688
    assert found["fprop.x.saturation"].item() == (x.numpy() > limit * (1 + 2**-18)).mean() > 0


def test_integers_by_hand(look):
    x = torch.tensor([[7.0, 3.4, 0.4, 0.0], [0.7, 0.0, 0.0, 0.0]])
    found = OperandError("int4-channel-token").observe(look(nn.Linear(4, 3), x)[Role.INPUT])
    values = {key: value.item() for key, value in found.scalars().items()}
    noise = 0.4**2 + 0.4**2
    signal = 49 + 3.4**2 + 0.4**2 + 0.7**2
    assert values["fprop.x.sqnr_db"] == pytest.approx(10 * math.log10(signal / noise), abs=1e-5)
    assert values["fprop.x.underflow"] == 0.25
    assert values["fprop.x.relative_error"] == pytest.approx((0.4 / 3.4 + 1) / 4, abs=1e-6)
    assert values["fprop.x.saturation"] == 0
    assert values["n"] == 8


@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_micro_batches_merge_to_the_whole(mean, dtype, look, generator):
    """Scales by token do not depend on the batch, so one pass over all is the same."""
    x = (torch.randn(96, 24, generator=generator) + mean).to(dtype)
    layer, probe = nn.Linear(24, 8).to(dtype), OperandError("int4-channel-token")
    whole, *parts = (probe.observe(look(layer, t)[Role.INPUT]) for t in (x, *x.split([17, 32, 47])))
    merged = parts[2].merge(parts[0]).merge(parts[1].to("cpu"))
    assert merged.scalars().keys() == whole.scalars().keys()
    for key, value in whole.scalars().items():
        assert merged.scalars()[key].item() == pytest.approx(value.item(), rel=1e-13)


def test_zero_is_missing_and_not_zero(look):
    views = look(nn.Linear(8, 4), torch.zeros(3, 8))
    found = OperandError("nvfp4").observe(views[Role.INPUT]).scalars()
    assert set(found) == {
        *("n", "fprop.x.n", "fprop.x.nonfinite", "fprop.x.saturation"),
        *("wgrad.x.n", "wgrad.x.nonfinite", "wgrad.x.saturation"),
    }
    assert found["n"] == 48


def test_one_element_is_a_tensor_too(look):
    found = OperandError("nvfp4").observe(look(nn.Linear(1, 1), torch.tensor([[3.0]]))[Role.INPUT])
    assert found.scalars()["fprop.x.n"] == 1
    assert found.scalars()["fprop.x.sqnr_db"] > 100


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["nvfp4", "int4-tensor", "nvfp4-2d-rht-sr"])
def test_what_is_not_finite_is_counted_and_makes_the_error_nan(bad, name, look, generator):
    x = torch.randn(32, 16, generator=generator)
    x[3, 5] = bad
    found = OperandError(name).observe(look(nn.Linear(16, 4), x)[Role.INPUT]).scalars()
    assert found["fprop.x.nonfinite"] > 0
    assert found["fprop.x.sqnr_db"].isnan()


def test_a_quantizer_in_the_recipes_place_is_judged_by_what_it_gives(look, generator):
    layer = nn.Linear(16, 4)
    convert(layer, "nvfp4", layers="all")
    layer.setup = replace(layer.setup, quantizer=lambda x, operand, role, generator: 0.5 * x)
    found = (
        OperandError()
        .observe(look(layer, torch.randn(8, 16, generator=generator))[Role.INPUT])
        .scalars()
    )
    assert found["fprop.x.sqnr_db"].item() == pytest.approx(20 * math.log10(2))
    assert "fprop.x.saturation" not in found
    assert found["fprop.x.underflow"] == 0
