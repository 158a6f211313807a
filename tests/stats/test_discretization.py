import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from qprobe.errors import InputError
from qprobe.stats import effective_levels, prediction_levels
from qprobe.stats.discretization import BINS, level


@pytest.mark.parametrize("k", [1, 2, 7, 64])
def test_k_equally_frequent_levels_are_k(k):
    p = 0.4 * 2.0 ** -torch.arange(k, dtype=torch.float64).div(4).repeat(5)
    found = prediction_levels(p, p).scalars()
    assert found["levels"].item() == pytest.approx(k)
    assert found["levels_ratio"].item() == 1.0
    assert found["vanished"].item() == 0.0


def test_effective_levels_are_the_exponential_of_scipys_entropy():
    counts = np.random.default_rng(0).poisson(3.0, size=(50, 4))
    counts[:, 2] = 0
    found = effective_levels(torch.from_numpy(counts))
    for column in (0, 1, 3):
        assert found[column].item() == pytest.approx(math.exp(entropy(counts[:, column])))
    assert math.isnan(found[2])


@pytest.mark.parametrize("exponent", [0, 1, 5, 19, 20])
def test_a_bin_starts_at_each_power_of_two_and_is_a_64th_octave(exponent):
    edge = torch.tensor(2.0**-exponent, dtype=torch.float64)
    at = BINS - 1 - 64 * exponent
    assert level(edge).item() == at
    assert level(edge * (1 - 1e-12)).item() == max(at - 1, 0)
    assert level(edge * 2.0 ** (-1.001 / 64)).item() == max(at - 2, 0)


def test_both_sides_hold_the_same_predictions():
    p = torch.tensor([0.5, 0.25, 0.1, 2.0**-21, 0.0, 1.0])
    q = torch.tensor([0.5, 0.0, 0.1, 0.3, 0.3, 0.3])
    found = prediction_levels(p, q)
    assert found.seen().item() == 2  # 0.25 vanished, the last three were never in range
    assert found.reference.sum() == found.quantized.sum()
    assert found.scalars()["vanished"].item() == pytest.approx(1 / 3)


def test_p_and_its_complement_are_one_level():
    p = torch.tensor([0.25, 0.75])
    assert prediction_levels(p, p).scalars()["levels"].item() == 1.0


def test_a_staircase_is_seen(generator):
    p = torch.rand(1 << 14, generator=generator)
    found = prediction_levels(p, (p * 8).round() / 8).scalars()
    # min(p, 1 − p) of ninths: 1/8, 2/8, 3/8 twice as often as 4/8; zero and one are out of range.
    shares = np.array([2, 2, 2, 1]) / 7
    assert found["levels_quantized"].item() == pytest.approx(math.exp(entropy(shares)), rel=0.01)
    assert found["levels_ratio"].item() < 0.05


def test_the_stated_bias_is_the_bias(generator):
    """Sixteen equal bins, 200 counts: the entropy is low by 15/400."""
    logs = [
        effective_levels(
            torch.bincount(torch.randint(16, (200,), generator=generator), minlength=16)
        ).log()
        for _ in range(400)
    ]
    assert math.log(16) - torch.stack(logs).mean().item() == pytest.approx(15 / 400, rel=0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_makes_the_levels_nan(bad):
    p = torch.tensor([0.1, 0.2, bad])
    found = prediction_levels(p, torch.tensor([0.1, 0.2, 0.3])).scalars()
    assert all(math.isnan(found[k]) for k in ("levels", "levels_quantized", "levels_ratio"))
    assert found["n"].item() == 2


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match="one shape"):
        prediction_levels(torch.zeros(2), torch.zeros(3))
