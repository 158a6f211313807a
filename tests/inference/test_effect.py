import math

import numpy as np
import pytest
from scipy import stats

from qprobe.errors import InputError
from qprobe.inference import cohens_d, hedges_g, mean_interval
from qprobe.inference.effect import hedges_factor, noncentral_t_below


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_mean_interval_is_scipys(level):
    x = np.random.default_rng(0).normal(3, 2, size=9)
    theirs = stats.ttest_1samp(x, 0.0).confidence_interval(level)
    found = mean_interval(x, level)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert (found.estimate, found.n) == (pytest.approx(x.mean()), 9)


@pytest.mark.parametrize("shift", [0.0, 0.4, -2.0, 15.0])
@pytest.mark.parametrize("n", [3, 10, 60])
def test_limits_of_d_put_the_observed_t_at_the_quantiles(shift, n):
    one = np.random.default_rng(n).normal(shift, 1, size=n)
    found = cohens_d(one, np.zeros(n))
    t = found.estimate * math.sqrt(n)
    assert t == pytest.approx(stats.ttest_1samp(one, 0.0).statistic)
    for limit, share in ((found.low, 0.975), (found.high, 0.025)):
        assert stats.nct.cdf(t, n - 1, limit * math.sqrt(n)) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("freedom", [2, 5, 30])
@pytest.mark.parametrize("t", [-1.0, 0.0, 2.5, 10.0])
@pytest.mark.parametrize("noncentrality", [-1.0, 0.0, 3.0])
def test_noncentral_t_is_scipys(freedom, t, noncentrality):
    expected = stats.nct.cdf(t, freedom, noncentrality)
    assert noncentral_t_below(t, freedom, noncentrality) == pytest.approx(expected, abs=1e-9)


def test_noncentral_t_far_out():
    """By symmetry P(T ≤ t; δ) = 1 − P(T ≤ −t; −δ), and δ → ∞ leaves nothing below t."""
    below = noncentral_t_below(900.0, 2, 700.0)
    assert below == pytest.approx(1 - noncentral_t_below(-900.0, 2, -700.0), abs=1e-9)
    assert below == pytest.approx(stats.chi2.sf(2 * (700 / 900) ** 2, 2), abs=2e-6)
    assert noncentral_t_below(3.0, 2, 400.0) == pytest.approx(0.0, abs=1e-12)


def test_d_excludes_zero_exactly_when_the_t_test_rejects():
    generator = np.random.default_rng(1)
    for _ in range(40):
        apart = generator.normal(0.7, 1, size=8)
        rejected = stats.ttest_1samp(apart, 0.0).pvalue < 0.05
        assert cohens_d(apart, np.zeros(8)).excludes(0.0) == rejected


def test_interval_of_d_covers_the_truth():
    generator = np.random.default_rng(2)
    trials = [cohens_d(generator.normal(0.8, 1, size=6), np.zeros(6)) for _ in range(200)]
    inside = sum(not found.excludes(0.8) for found in trials) / 200
    assert 0.90 <= inside <= 0.995, "0.95 within three standard errors"


def test_hedges_removes_the_bias_of_d():
    generator = np.random.default_rng(3)
    apart = generator.normal(1.0, 1.0, size=(40_000, 5))
    d = apart.mean(1) / apart.std(1, ddof=1)
    error = d.std() / 200
    assert hedges_factor(4) * d.mean() == pytest.approx(1.0, abs=4 * error)
    assert d.mean() > 1.0 + 10 * error


def test_hedges_factor_by_hand():
    """ν = 2: Γ(1)/(√1·Γ(½)) = 1/√π.  ν = 4: Γ(2)/(√2·Γ(3/2)) = √2/√π."""
    assert hedges_factor(2) == pytest.approx(1 / math.sqrt(math.pi))
    assert hedges_factor(4) == pytest.approx(math.sqrt(2 / math.pi))
    assert hedges_factor(500) == pytest.approx(1 - 3 / (4 * 500 - 1), abs=1e-6)
    one, other = [1.0, 2.0, 4.0, 3.5, 2.5], [0.5, 2.5, 2.0, 3.0, 1.0]
    d, g = cohens_d(one, other), hedges_g(one, other)
    factor = math.sqrt(2 / math.pi)
    assert (g.estimate, g.low, g.high) == pytest.approx(
        (factor * d.estimate, factor * d.low, factor * d.high)
    )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: mean_interval([1.0]), "at least 2 values, got 1"),
        (lambda: mean_interval([1.0, np.nan]), "1 of 2 values are NaN or inf"),
        (lambda: cohens_d([1.0, 2.0], [0.0, 0.0]), "at least 3 pairs, got 2"),
        (lambda: cohens_d([1.0] * 4, [0.0] * 4), "all 4 differences are 1, so Cohen's d"),
        (lambda: cohens_d([0.0] * 4, [0.0] * 4), "all 4 differences are 0, so Cohen's d"),
        (lambda: hedges_factor(1), "from 2 degrees of freedom"),
        (lambda: mean_interval([1.0, 2.0], level=95), "between 0 and 1"),
    ],
)
def test_what_has_no_effect_size_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
