import pytest
import torch

from qprobe.faults import quantizers
from qprobe.quant import (
    INT4,
    NVFP4,
    Granularity,
    Operand,
    QuantSpec,
    Role,
    Rounding,
    Tile,
    fake_quantize,
)
from qprobe.quant.products import faithful

TENSOR = Operand(axes=1, spec=QuantSpec(format=INT4, granularity=Granularity.TENSOR))
BLOCKS = Operand(axes=1, spec=QuantSpec(format=NVFP4))
TILES = Operand(axes=1, spec=QuantSpec(format=NVFP4, tile=Tile.TWO_D), partner=0)


def run(how, x, operand, at=("fprop", "x")):
    tampered = quantizers.Tampered(faithful, frozenset({("fprop", "x")}), how)
    return tampered(x, operand, Role(*at), torch.Generator().manual_seed(0))


@pytest.fixture
def x(generator):
    return torch.randn(32, 48, generator=generator)


@pytest.mark.parametrize("operand", [TENSOR, BLOCKS, TILES])
def test_other_operands_are_left_to_the_recipe(operand, x):
    how = quantizers.saturating(4.0)
    assert torch.equal(
        run(how, x, operand, at=("wgrad", "x")), faithful(x, operand, Role("wgrad", "x"), None)
    )


@pytest.mark.parametrize("operand", [TENSOR, BLOCKS, TILES])
def test_without_strength_the_tampered_quantizer_is_the_faithful_one(operand, x):
    expected = faithful(x, operand, Role("fprop", "x"), None)
    assert torch.equal(run(quantizers.saturating(1.0), x, operand), expected)
    stale = run(quantizers.stale(1.0), x, operand)
    assert (stale - expected).abs().max() < 1e-5 * x.abs().max()
    unit = float(x.abs().max()) / 2688.0
    if operand is not TENSOR:
        constant = run(quantizers.constant_scale(unit), x, operand)
        assert (constant - expected).abs().max() < 1e-5 * x.abs().max()


def test_a_saturating_scale_cuts_off():
    x = torch.tensor([[8.0, -8.0, 1.0, 0.0]])
    assert run(quantizers.saturating(4.0), x, TENSOR).abs().max() == 2.0


def test_a_stale_scale_has_coarser_steps():
    x = torch.tensor([[7.0, 1.0, 2.0, 0.0]])
    assert torch.equal(
        run(quantizers.stale(4.0), x, TENSOR),
        torch.tensor([[8.0, 0.0, 4.0, 0.0]]).where(
            torch.tensor([True, True, False, True]), torch.tensor(0.0)
        ),
    )


def test_without_the_factor_of_the_tensor_small_numbers_underflow():
    x = torch.full((1, 16), 1e-4)
    assert fake_quantize(x, BLOCKS.spec, 1).abs().min() > 0
    assert run(quantizers.constant_scale(1.0), x, BLOCKS).abs().max() == 0


def test_three_bits_have_seven_values():
    x = torch.linspace(-1, 1, 48).view(1, 48)
    assert len(run(quantizers.few_bits(1), x, TENSOR).unique()) == 7
    assert len(run(quantizers.few_bits(1), x[:, :16], BLOCKS).unique()) <= 7


def test_scales_of_the_other_axis():
    x = torch.ones(32, 32)
    x[:16] *= 8.0
    x[0, 0] = 32.0
    rows = torch.zeros(32, 1, dtype=torch.bool)
    rows[1] = True
    wrong = run(quantizers.transposed_scales(0, rows), x, BLOCKS)
    right = run(quantizers.saturating(1.0), x, BLOCKS)
    assert torch.equal(wrong[2:], right[2:])
    assert wrong[1, 0] == 4 * right[1, 0]  # 32 in its column's block, 8 in its row's


def test_noise_is_the_same_every_time_and_as_large_as_said(x):
    how = quantizers.noisy(3.0, seed=7)
    first, plain = run(how, x, BLOCKS), faithful(x, BLOCKS, Role("fprop", "x"), None)
    assert torch.equal(first, run(how, x, BLOCKS))
    ratio = (first - plain).norm() / (plain - x).norm()
    assert 2.8 < ratio < 3.2


def test_nearest_takes_a_share_from_stochastic_rounding(x):
    operand = Operand(axes=1, spec=QuantSpec(format=NVFP4, rounding=Rounding.STOCHASTIC))
    nearest = faithful(x, BLOCKS, Role("fprop", "x"), None)
    assert torch.equal(run(quantizers.nearest(1.0, 0), x, operand), nearest)
    half = run(quantizers.nearest(0.5, 0), x, operand)
    none = run(quantizers.nearest(0.0, 0), x, operand)
    agrees = [(values == nearest).float().mean().item() for values in (none, half)]
    assert agrees[0] < agrees[1] < 1.0
