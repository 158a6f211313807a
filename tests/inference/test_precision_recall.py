from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from qprobe.errors import InputError
from qprobe.inference.precision_recall import (
    average_precision,
    average_precision_bounds,
    average_precision_of_histograms,
    average_precision_slopes,
    precision_recall,
)

BINS = 32


def sample(seed, n=400, decimals=None):
    generator = np.random.default_rng(seed)
    labels = generator.random(n) < 0.2
    scores = generator.normal(labels * 1.5, 1.0)
    return (scores if decimals is None else scores.round(decimals)), labels


def binned(scores, labels, bins=BINS):
    at = np.clip(((scores + 4) / 8 * bins).astype(int), 0, bins - 1)
    counts = [np.bincount(at[labels == side], minlength=bins) for side in (False, True)]
    return np.stack(counts), at


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_exact_value_is_scikit_learns(seed, decimals):
    scores, labels = sample(seed, decimals=decimals)
    expected = average_precision_score(labels, scores)
    assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "labels", "value"),
    [
        ([3, 2, 1], [1, 1, 0], 1.0),
        ([3, 2, 1], [0, 0, 1], 1 / 3),
        ([1, 1, 1, 1], [1, 0, 0, 0], 0.25),
        ([np.inf, 0, -np.inf], [0, 1, 0], 0.5),
        ([5], [1], 1.0),
    ],
)
def test_exact_value_by_hand(scores, labels, value):
    assert average_precision(scores, labels) == pytest.approx(value)


@pytest.mark.parametrize("seed", range(5))
def test_value_of_histograms_with_pure_bins_is_scikit_learns(seed):
    """Where no bin holds both kinds, their order inside a bin does not matter."""
    scores, labels = sample(seed)
    at = 2 * binned(scores, labels)[1] + labels
    counts = np.stack([np.bincount(at[labels == side], minlength=64) for side in (False, True)])
    expected = average_precision_score(labels, at + np.linspace(0, 0.5, len(at)))
    assert float(average_precision_of_histograms(counts)) == pytest.approx(expected, abs=1e-12)


def test_value_of_mixed_bins_is_the_mean_over_orders_inside_them():
    scores, labels = sample(0, n=4000)
    counts, at = binned(scores, labels)
    generator = np.random.default_rng(0)
    orders = [average_precision(at + generator.random(at.size), labels) for _ in range(200)]
    error = float(average_precision_of_histograms(counts)) - np.mean(orders)
    assert abs(error) < 0.001
    assert (
        abs(float(average_precision_of_histograms(counts)) - average_precision(at, labels)) > 0.005
    )


def test_value_of_mixed_bins_is_the_sum_of_its_definition():
    negatives, positives = [3, 0, 2, 5], [0, 2, 4, 3]
    total, hits, misses = 0.0, 0, 0
    for n, p in zip(reversed(negatives), reversed(positives), strict=True):
        for i in range(1, p + 1):
            total += (hits + i) / (hits + i + misses + n * i / (p + 1))
        hits, misses = hits + p, misses + n
    got = float(average_precision_of_histograms([negatives, positives]))
    assert got == pytest.approx(total / hits, rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("decimals", [None, 0])
@pytest.mark.parametrize("bins", [1, 4, 32])
def test_bounds_enclose_the_exact_value_and_that_of_the_bins(seed, decimals, bins):
    scores, labels = sample(seed, n=60, decimals=decimals)
    counts, _ = binned(scores, labels, bins)
    low, high = (float(bound) for bound in average_precision_bounds(counts))
    assert low - 1e-12 <= average_precision(scores, labels) <= high + 1e-12
    assert low - 1e-12 <= float(average_precision_of_histograms(counts)) <= high + 1e-12


def test_value_of_crowded_bins_is_the_sum_of_its_definition():
    """Counts from a few to many thousands: both sides of where the series takes over."""
    rng = np.random.default_rng(5)
    negatives = np.concatenate([[0, 0], rng.integers(0, 9000, 12), rng.integers(0, 6, 8), [0]])
    positives = np.concatenate([[0, 3], rng.integers(0, 400, 12), rng.integers(0, 4, 8), [0]])
    total, hits, misses = 0.0, 0, 0
    for n, p in zip(negatives[::-1].tolist(), positives[::-1].tolist(), strict=True):
        for i in range(1, p + 1):
            total += (hits + i) / (hits + i + misses + n * i / (p + 1))
        hits, misses = hits + p, misses + n
    found = average_precision_of_histograms([negatives, positives])
    assert float(found) == pytest.approx(total / hits, rel=1e-13)


def test_bounds_are_reached():
    """One bin of 2 positives and 3 negatives, ranked worst (distinct) and best (tied) inside it."""
    low, high = average_precision_bounds([[3], [2]])
    worst = average_precision([5, 4, 3, 2, 1], [0, 0, 0, 1, 1])
    best = average_precision([5, 5, 3, 2, 1], [1, 1, 0, 0, 0])
    assert float(low) == pytest.approx(worst)
    assert float(high) == pytest.approx(best)


def test_histograms_of_images_add_up():
    (s1, l1), (s2, l2) = sample(1), sample(2)
    total = binned(s1, l1)[0] + binned(s2, l2)[0]
    both = binned(np.concatenate([s1, s2]), np.concatenate([l1, l2]))[0]
    assert (total == both).all()


def test_leading_axes_are_independent_and_no_positive_is_masked():
    one, _ = binned(*sample(1))
    none = one.copy()
    none[1] = 0
    values = average_precision_of_histograms(np.stack([one, none]))
    assert values.tolist() == [float(average_precision_of_histograms(one)), None]
    low, high = average_precision_bounds(np.stack([one, none]))
    assert low.tolist()[1] is high.tolist()[1] is None


def many(seed, leading=(3, 60), bins=200):
    """More rows than are worked on together."""
    return np.random.default_rng(seed).integers(0, 40, (*leading, 2, bins))


def test_many_histograms_are_each_their_own():
    counts = many(0)
    together = average_precision_of_histograms(counts)
    assert together.shape == (3, 60)
    for at in np.ndindex(3, 60):
        assert together[at] == pytest.approx(average_precision_of_histograms(counts[at]), rel=1e-13)
    assert average_precision_of_histograms(counts[:, :0]).shape == (3, 0)


def test_threads_do_not_share_what_they_work_in():
    expected = [average_precision_of_histograms(many(seed)) for seed in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            found = pool.map(lambda seed: average_precision_of_histograms(many(seed)), range(2))
            assert all((a == b).all() for a, b in zip(found, expected, strict=True))


def test_curve_is_scikit_learns_of_the_bins():
    scores, labels = sample(3)
    counts, at = binned(scores, labels)
    precision, recall = precision_recall(counts)
    theirs = precision_recall_curve(labels, at)
    used = np.unique(at)
    np.testing.assert_allclose(precision[::-1][used], theirs[0][:-1])
    np.testing.assert_allclose(recall[::-1][used], theirs[1][:-1])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: average_precision([1.0, np.nan], [1, 0]), "1 of 2 scores are NaN"),
        (lambda: average_precision([1.0, 2.0], [0, 0]), "none of 2 labels is positive"),
        (lambda: average_precision([1.0, 2.0], [1]), r"labels of that shape, got \(1,\)"),
        (lambda: average_precision_of_histograms(np.zeros((3, 8))), r"\[..., 2, bins\], got"),
        (lambda: precision_recall(np.zeros((2, 8))), "with positives in it"),
    ],
)
def test_what_has_no_value_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()


def two_bells(bins: int = 256) -> np.ndarray:
    """Many negatives around 0 and few positives around 1.5, as expected counts from −4 to 6."""
    at = np.linspace(-4, 6, bins)
    negatives, positives = np.exp(-(at**2) / 2), np.exp(-((at - 1.5) ** 2) / 2)
    return np.stack([4e6 * negatives / negatives.sum(), 1e6 * positives / positives.sum()])


def test_slopes_say_what_moving_a_few_scores_by_a_bin_does():
    counts = two_bells()
    slopes = average_precision_slopes(counts, smooth=0)
    few = 10.0  # of up to 16,000 in a bin
    for side in (0, 1):
        for at in (80, 120, 150, 200):
            changes = []
            for start, stop in ((at, at + 1), (at - 1, at)):
                moved = counts.copy()
                moved[side, start] -= few
                moved[side, stop] += few
                change = average_precision_of_histograms(moved)
                changes.append(float(change - average_precision_of_histograms(counts)))
            expected = few * slopes[side, at]
            assert np.mean(changes) == pytest.approx(expected, rel=0.01), (side, at)


def test_slopes_say_what_moving_all_positives_does():
    counts = two_bells()
    up, down = counts.copy(), counts.copy()
    up[1], down[1] = np.roll(counts[1], 1), np.roll(counts[1], -1)
    gained = average_precision_of_histograms(up) - average_precision_of_histograms(down)
    predicted = (average_precision_slopes(counts, smooth=0)[1] * counts[1]).sum()
    assert predicted == pytest.approx(float(gained) / 2, rel=1e-3)


def test_nothing_is_gained_where_all_scores_rise_or_there_is_nothing_to_find():
    counts = np.stack([two_bells(), [two_bells()[0], np.zeros(256)]])
    slopes = average_precision_slopes(counts, smooth=0)
    assert (slopes[0] * counts[0]).sum() == pytest.approx(0, abs=1e-9)
    assert not slopes[1].any()


def test_smoothed_slopes_of_a_sample_are_near_those_of_its_densities():
    counts = two_bells() / 1000
    drawn = np.random.default_rng(0).poisson(counts)
    truth = average_precision_slopes(counts, smooth=0) * counts
    rough, smooth = (
        np.abs(average_precision_slopes(drawn, smooth=s) * counts - truth).sum() for s in (0, 4)
    )
    assert smooth < min(0.1 * np.abs(truth).sum(), 0.5 * rough)
