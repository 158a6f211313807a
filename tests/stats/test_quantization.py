import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_squared_error

from qprobe.errors import InputError
from qprobe.stats import operand_error
from qprobe.stats.pair import PIECE


def test_halving_every_element_is_six_decibels():
    x = torch.tensor([1.0, -2.0, 4.0])
    found = operand_error(x, x / 2).scalars()
    assert found["sqnr_db"].item() == pytest.approx(20 * math.log10(2))
    assert found["relative_error"].item() == 0.5
    assert found["underflow"].item() == 0.0
    assert "saturation" not in found


def test_sqnr_is_that_of_sklearns_mean_squared_error(generator):
    x, y = torch.randn(2, PIECE + 37, generator=generator, dtype=torch.float64)
    expected = 10 * math.log10(np.mean(x.numpy() ** 2) / mean_squared_error(x, y))
    found = operand_error(x, y).scalars()
    assert found["sqnr_db"].item() == pytest.approx(expected, rel=1e-12)
    relative = np.mean(((y - x) / x).abs().numpy())
    assert found["relative_error"].item() == pytest.approx(relative, rel=1e-12)


def test_the_error_of_uniform_rounding_is_the_textbook_one(generator):
    """A step Δ makes noise Δ²/12; a uniform signal on ±1 has energy 1/3."""
    x = 2 * torch.rand(1 << 20, generator=generator, dtype=torch.float64) - 1
    step = 2.0**-7
    expected = 10 * math.log10((1 / 3) / (step**2 / 12))
    found = operand_error(x, (x / step).round() * step).scalars()
    assert found["sqnr_db"].item() == pytest.approx(expected, abs=0.02)


def test_zero_counts_as_underflow_only_where_there_was_something():
    x = torch.tensor([0.0, 1.0, -1e-30, 2.0])
    found = operand_error(x, torch.tensor([0.0, 1.0, -0.0, 0.0])).scalars()
    assert found["underflow"].item() == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("x", "saturated"),
    [(6.0, 0), (6.0 * (1 + 2.0**-20), 0), (-6.0 * (1 + 2.0**-17), 1), (6.1, 1), (5.0, 0)],
)
def test_an_element_saturates_above_its_limit_by_a_margin(x, saturated):
    x = torch.tensor([x], dtype=torch.float64)
    assert operand_error(x, x, 6.0).scalars()["saturation"].item() == saturated


def test_limits_of_blocks_broadcast():
    x = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
    found = operand_error(x, x, torch.tensor([[2.0], [4.0]])).scalars()
    assert found["saturation"].item() == 0.25


def test_saturation_is_a_share_of_the_elements_with_a_limit():
    x = torch.tensor([1.0, 3.0])
    merged = operand_error(x, x, 2.0).merge(operand_error(x, x)).scalars()
    assert merged["saturation"].item() == 0.5
    assert merged["n"].item() == 4


def test_lossless_is_infinite_and_zero_without_error_is_missing():
    x, zero = torch.ones(3), torch.zeros(3)
    assert operand_error(x, x).scalars()["sqnr_db"].item() == math.inf
    assert operand_error(zero, x).scalars()["sqnr_db"].item() == -math.inf
    found = operand_error(zero, zero).scalars()
    assert set(found) == {"n", "nonfinite"}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_counted_and_makes_the_error_nan(bad):
    found = operand_error(torch.tensor([1.0, bad]), torch.tensor([1.0, 1.0])).scalars()
    assert found["nonfinite"].item() == 0.5
    assert math.isnan(found["sqnr_db"])
    assert math.isnan(found["relative_error"])


def test_half_precision_does_not_overflow_or_lose_small_squares():
    x = torch.tensor([60000.0, 6e-8], dtype=torch.float16)
    found = operand_error(x, torch.zeros_like(x))
    assert found.signal[0].item() == float(x[0]) ** 2 + float(x[1]) ** 2
    assert found.scalars()["sqnr_db"].item() == 0.0


def test_limits_that_fit_nothing_are_refused():
    with pytest.raises(InputError, match=r"limits of \(3,\) do not broadcast"):
        operand_error(torch.zeros(2), torch.zeros(2), torch.zeros(3))
