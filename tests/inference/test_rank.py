import itertools
import math

import numpy as np
import pytest

from qprobe.errors import InputError
from qprobe.inference import kendall_tau


def pair_by_pair(one, other):
    concordant = discordant = only_first = only_second = 0
    for (a, b), (c, d) in itertools.combinations(zip(one, other, strict=True), 2):
        if a == c and b == d:
            continue
        if a == c:
            only_first += 1
        elif b == d:
            only_second += 1
        elif (a < c) == (b < d):
            concordant += 1
        else:
            discordant += 1
    untied = concordant + discordant
    return (concordant - discordant) / math.sqrt((untied + only_first) * (untied + only_second))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("values", [4, 1000])
def test_tau_b_is_the_count_over_pairs(seed, values):
    one, other = np.random.default_rng(seed).integers(values, size=(2, 14))
    assert kendall_tau(one, other).estimate == pytest.approx(pair_by_pair(one, other))


def test_limits_cover_the_truth_of_correlated_normals():
    """Of normals with correlation ρ, τ = 2/π·arcsin ρ."""
    generator = np.random.default_rng(0)
    truth = 2 / math.pi * math.asin(0.6)
    inside = 0
    for _ in range(400):
        one, noise = generator.normal(size=(2, 20))
        inside += not kendall_tau(one, 0.6 * one + 0.8 * noise).excludes(truth)
    assert 0.92 <= inside / 400 <= 0.985


def test_perfect_agreement_is_not_perfect_certainty():
    found = kendall_tau(range(10), range(10))
    assert found.estimate == found.high == 1.0
    assert 0.8 < found.low < 1.0
    against = kendall_tau(range(10), range(10, 0, -1))
    assert (against.low, against.high) == (-1.0, pytest.approx(-found.low))


def test_more_items_narrow_the_interval():
    one = np.arange(12)
    other = one.copy()
    other[::2] = one[::-2]
    few, many = kendall_tau(one, other), kendall_tau(np.tile(one, 3), np.tile(other, 3))
    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: kendall_tau([1, 2, 3, 4], [1, 2, 3, 4]), "at least 5 items, got 4"),
        (lambda: kendall_tau([1] * 6, range(6)), "all 6 values of one ranking are equal"),
        (lambda: kendall_tau([1, 2, 3, 4, np.inf], range(5)), "NaN or inf"),
        (lambda: kendall_tau(range(5), range(6)), "one length"),
    ],
)
def test_what_has_no_order_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
