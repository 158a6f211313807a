import time
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from qprobe.errors import InputError
from qprobe.inference import (
    Method,
    Resampling,
    average_precision_of_histograms,
    bootstrap,
    paired_bootstrap,
    replicate,
)
from qprobe.inference.bootstrap import bca_limits


def drawing(seed=0, **changes):
    return Resampling(generator=np.random.default_rng(seed), **changes)


def counted(values):
    """Values with a one beside each: sums of both give a mean."""
    return np.stack([values, np.ones(len(values))], axis=1)


def mean(totals):
    return totals[:, 0] / totals[:, 1]


@pytest.mark.parametrize("method", list(Method))
def test_interval_of_a_mean_is_the_closed_form(method):
    """Of a mean the bootstrap's standard deviation is σ̂/√n, σ̂ with n in the denominator."""
    values = np.random.default_rng(1).normal(5, 2, size=400)
    found = bootstrap(counted(values), mean, drawing(draws=20_000, method=method))
    half = 1.959964 * values.std() / 20
    assert found.estimate == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.03)
    assert found.low < values.mean() < found.high
    assert (found.n, found.level, found.method) == (400, 0.95, method.value)


@pytest.mark.parametrize("seed", range(4))
def test_bca_limits_are_scipys_for_the_same_draws(seed):
    generator = np.random.default_rng(seed)
    values = generator.exponential(size=25)
    draws = np.median(values[generator.integers(25, size=(999, 25))], axis=1)
    left_out = np.array([np.median(np.delete(values, i)) for i in range(25)])
    theirs = stats.bootstrap(
        (values,),
        np.median,
        n_resamples=0,
        method="BCa",
        bootstrap_result=SimpleNamespace(bootstrap_distribution=draws),
    ).confidence_interval
    got = bca_limits(draws, float(np.median(values)), left_out, 0.95)
    assert got == pytest.approx((theirs.low, theirs.high), rel=1e-9)


def test_pairing_cancels_what_the_samples_share():
    generator = np.random.default_rng(2)
    shared, gain = generator.normal(0, 10, size=200), generator.normal(0.5, 1, size=200)
    paired = paired_bootstrap(counted(shared + gain), counted(shared), mean, drawing())
    assert paired.estimate == pytest.approx(gain.mean())
    assert paired.excludes(0.0)
    assert paired.high - paired.low == pytest.approx(2 * 1.96 * gain.std() / 200**0.5, rel=0.15)


def test_of_a_recipe_against_itself_every_draw_is_zero():
    values = counted(np.random.default_rng(3).normal(size=30))
    found = paired_bootstrap(values, values, mean, drawing())
    assert (found.estimate, found.low, found.high) == (0.0, 0.0, 0.0)
    assert found.method == "percentile (bca does not exist here)"


def test_groups_are_drawn_whole():
    """Ten identical slices of each patient are no more evidence than one."""
    patients = np.random.default_rng(4).normal(size=40)
    slices, groups = counted(np.repeat(patients, 10)), np.repeat(np.arange(40), 10).tolist()
    grouped = bootstrap(slices, mean, drawing(5), groups)
    alone = bootstrap(counted(patients), mean, drawing(5))
    naive = bootstrap(slices, mean, drawing(5))
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high))
    assert grouped.n == 40
    assert naive.high - naive.low < 0.5 * (grouped.high - grouped.low)


def test_statistics_of_a_group_are_summed_whatever_its_size():
    values = np.random.default_rng(10).normal(size=7)
    groups = ["b", "a", "b", "c", "c", "c", "d"]
    by_hand = np.array([counted(values)[np.array(groups) == g].sum(0) for g in "bacd"])
    named = bootstrap(counted(values), mean, drawing(11), groups)
    assert named == bootstrap(by_hand, mean, drawing(11))
    assert named.n == 4


@pytest.mark.parametrize("method", list(Method))
def test_coverage_of_the_mean(method):
    """95 % intervals of 40 normal values hold the truth in 95 % of trials, minus small-n loss."""
    generator = np.random.default_rng(6)
    inside = 0
    for trial in range(300):
        values = counted(generator.normal(1.0, 1.0, size=40))
        found = bootstrap(values, mean, drawing(trial, draws=400, method=method))
        inside += not found.excludes(1.0)
    assert 0.90 <= inside / 300 <= 0.98


def test_same_seed_same_interval_and_the_global_state_is_untouched():
    values = counted(np.arange(20.0))
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    assert bootstrap(values, mean, drawing(7)) == bootstrap(values, mean, drawing(7))
    assert bootstrap(values, mean, drawing(7)) != bootstrap(values, mean, drawing(8))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def histograms(seed, images, positive=1.0):
    generator = np.random.default_rng(seed)
    background = generator.poisson(3, size=(images, 1024))
    lesion = np.roll(generator.poisson(0.05 * positive, size=(images, 1024)), 300, axis=1)
    return np.stack([background, lesion], axis=1)


def test_average_precision_of_histograms_is_resampled_in_seconds():
    first = histograms(0, 400)
    second = first.copy()
    second[:, 1] = np.roll(first[:, 1], 40, axis=1)
    groups = np.repeat(np.arange(80), 5).tolist()
    start = time.process_time()
    found = paired_bootstrap(first, second, average_precision_of_histograms, drawing(), groups)
    assert time.process_time() - start < 10
    assert found.n == 80
    assert found.low < found.estimate < found.high


def test_weights_are_draws_with_replacement():
    """The resampled AUPRC equals that of the drawn images put together one by one."""
    images = histograms(1, 6)
    weights = np.random.default_rng(9).multinomial(6, np.full(6, 1 / 6), size=1000)
    chosen = np.repeat(np.arange(6), weights[0])
    by_hand = float(average_precision_of_histograms(images[chosen].sum(0)))
    seen = []

    def spy(totals):
        scores = average_precision_of_histograms(totals)
        seen.append(scores)
        return scores

    bootstrap(images, spy, drawing(9))
    assert seen[1][0] == pytest.approx(by_hand)


def test_draws_without_foreground_are_left_out_or_refused():
    some, few = histograms(2, 12), histograms(3, 12)
    some[:8, 1], few[:11, 1] = 0, 0
    found = bootstrap(some, average_precision_of_histograms, drawing())
    assert 0 < found.low < found.high < 1
    with pytest.raises(InputError, match=r"undefined in \d+ of 1000 draws of 12 groups"):
        bootstrap(few, average_precision_of_histograms, drawing())
    few[:, 1] = 0
    with pytest.raises(InputError, match="of all 12 groups together is undefined"):
        bootstrap(few, average_precision_of_histograms, drawing())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: bootstrap(counted([1.0]), mean, drawing()), "at least 2 groups .* got 1"),
        (lambda: bootstrap([], mean, drawing()), "statistics are"),
        (lambda: bootstrap(counted([1.0, np.nan]), mean, drawing()), "hold NaN or inf"),
        (lambda: bootstrap(counted([1.0, 2.0]), mean, drawing(), ["a"]), "as many groups, got 1"),
        (lambda: bootstrap(counted([1.0, 2.0]), lambda t: t, drawing()), "one score per row"),
        (
            lambda: bootstrap(counted([1.0, 2.0]), lambda t: t[:, 0] * np.nan, drawing()),
            "reduce returned NaN",
        ),
        (
            lambda: paired_bootstrap(counted([1.0, 2.0]), counted([1.0] * 3), mean, drawing()),
            "same samples",
        ),
        (lambda: drawing(draws=100), "100 draws leave under 5 .* at least 200"),
        (lambda: drawing(level=1.0), "between 0 and 1"),
    ],
)
def test_what_cannot_be_resampled_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()


def test_replicates_of_other_draws_or_groups_are_not_subtracted():
    def of(rows, draws):
        values = np.arange(float(rows))[:, None]
        resampling = Resampling(generator=np.random.default_rng(0), draws=draws)
        return replicate(values, lambda totals: totals[:, 0], resampling)

    with pytest.raises(InputError, match="300 draws of 5 groups and 200 of 5"):
        of(5, 300) - of(5, 200)
    with pytest.raises(InputError, match="200 draws of 5 groups and 200 of 6"):
        of(5, 200) - of(6, 200)
