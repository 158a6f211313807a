import numpy as np
import pytest
from scipy import stats

from qprobe.errors import InputError
from qprobe.inference import Interval, Resampling, bootstrap, of_family


def one(estimate=1.0, low=0.4, high=2.0, n=31):
    return Interval(estimate=estimate, low=low, high=high, level=0.95, n=n, method="bca")


def test_of_many_groups_it_is_bonferronis_normal_quantile():
    wide = of_family(one(n=1_000_000), 10)
    width = stats.norm.isf(0.0025) / stats.norm.isf(0.025)  # 2.807 / 1.960
    assert wide.low == pytest.approx(1.0 - 0.6 * width, rel=1e-4)
    assert wide.high == pytest.approx(1.0 + 1.0 * width, rel=1e-4)
    assert (wide.estimate, wide.level, wide.n) == (1.0, 0.95, 1_000_000)


def test_of_normal_groups_it_is_students_interval_of_the_mean():
    """Limits θ̂ ± z·σ̂/√n, σ̂ with n below, become θ̂ ± t·s/√n with s of n − 1, at α/m."""
    values = np.random.default_rng(0).normal(2.0, 1.0, size=12)
    half = stats.norm.isf(0.025) * values.std() / 12**0.5
    found = of_family(one(values.mean(), values.mean() - half, values.mean() + half, 12), 5)
    theirs = stats.ttest_1samp(values, 0.0).confidence_interval(1 - 0.05 / 5)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_a_family_of_one_is_left_as_it_is():
    assert of_family(one(), 1) == one()
    assert of_family(one(), 1, even=True) == one()


def test_an_even_interval_has_no_side_below_half_of_it():
    lopsided, even = of_family(one(), 28), of_family(one(), 28, even=True)
    assert even.high == lopsided.high
    assert (1.0 - even.low) / (even.high - 1.0) == pytest.approx(0.8)
    assert (1.0 - lopsided.low) / (lopsided.high - 1.0) == pytest.approx(0.6)


def test_what_does_not_vary_stays_a_point():
    found = of_family(one(0.0, 0.0, 0.0), 28, even=True)
    assert (found.low, found.high) == (0.0, 0.0)


@pytest.mark.parametrize(("family", "n"), [(0, 20), (3, 1)])
def test_what_is_no_family_is_refused(family, n):
    with pytest.raises(InputError, match=f"got {family} members of {n} groups"):
        of_family(one(n=n), family)


def test_all_of_a_family_hold_together_where_each_alone_does_not():
    """Means of 20 independent sets of 30 normal values, of which each is 0 in truth."""
    drawn, trials, missed = np.random.default_rng(5), 80, np.zeros(2)
    for _ in range(trials):
        sets = drawn.normal(size=(20, 30))
        found = [
            bootstrap(
                values[:, None] / 30,
                lambda totals: totals[:, 0],
                Resampling(generator=np.random.default_rng(0), draws=300),
            )
            for values in sets
        ]
        missed += [
            any(alone.excludes(0.0) for alone in found),
            any(of_family(alone, 20).excludes(0.0) for alone in found),
        ]
    assert missed[0] > 0.5 * trials  # 1 − 0.95²⁰ = 0.64
    assert missed[1] <= stats.binom.ppf(0.99, trials, 0.05)
