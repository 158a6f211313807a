import itertools

import numpy as np
import pytest
from scipy import stats

from qprobe.errors import InputError
from qprobe.inference import holm, wilcoxon


def by_enumeration(apart):
    """p from every assignment of signs to the ranks of the non-zero differences."""
    kept = [d for d in apart if d != 0]
    ranks = stats.rankdata(np.abs(kept))
    centre = ranks.sum() / 2
    seen = abs(sum(r for r, d in zip(ranks, kept, strict=True) if d > 0) - centre)
    patterns = list(itertools.product((0, 1), repeat=len(kept)))
    extreme = sum(abs(np.dot(p, ranks) - centre) >= seen - 1e-9 for p in patterns)
    return extreme / len(patterns)


@pytest.mark.parametrize(
    "apart",
    [
        [1, 2, 3, 4, 5],
        [1, -2, 3, 4, 5, 6],
        [1, 1, 1, -1, 2],
        [0, 0, 1, 2, -3, 4],
        [3, -3, 3, -3],
        [-1, -2, -2.5, -4, -7, 0.5, -3],
    ],
)
def test_p_is_exact_with_ties_and_zeros(apart):
    found = wilcoxon(apart, np.zeros(len(apart)))
    assert found.p == pytest.approx(by_enumeration(apart), abs=1e-12)
    assert found.n == len(apart)
    assert found.zeros == apart.count(0)


@pytest.mark.parametrize("n", [10, 30, 80])
def test_p_and_statistic_are_scipys_without_ties(n):
    generator = np.random.default_rng(n)
    one, other = generator.normal(0.3, 1, size=n), generator.normal(size=n)
    theirs = stats.wilcoxon(one, other)
    found = wilcoxon(one, other)
    assert (found.statistic, found.p) == pytest.approx((theirs.statistic, theirs.pvalue))


def test_many_ties_use_the_normal_approximation():
    apart = np.repeat([1.0, -2.0, 3.0], [9, 5, 8])
    expected = stats.wilcoxon(apart, method="asymptotic").pvalue
    assert wilcoxon(apart, np.zeros(22)).p == pytest.approx(expected)


def test_five_pairs_cannot_reach_five_percent_and_it_is_said():
    found = wilcoxon([1, 2, 3, 4, 5], [0] * 5)
    assert found.p == found.smallest_p == 0.0625
    assert wilcoxon([1, 2, 3, 4, 5, 6], [0] * 6).p == 0.03125


def test_no_difference_at_all_is_p_one():
    found = wilcoxon([1.0, 2.0], [1.0, 2.0])
    assert (found.p, found.zeros, found.smallest_p) == (1.0, 2, 1.0)


def test_holm_by_hand():
    """Sorted .005 .01 .03 .04 times 4 3 2 1 is .02 .03 .06 .04, then never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_rejects_what_the_step_down_procedure_rejects():
    generator = np.random.default_rng(0)
    for _ in range(200):
        p = generator.random(6) ** 3
        rejected, m = set(), len(p)
        for step, at in enumerate(np.argsort(p)):
            if p[at] > 0.05 / (m - step):
                break
            rejected.add(int(at))
        assert {at for at, value in enumerate(holm(p.tolist())) if value <= 0.05} == rejected


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: wilcoxon([1, 2], [1]), "of one length"),
        (lambda: wilcoxon([1, np.nan], [1, 2]), "1 of 2 pairs hold NaN"),
        (lambda: wilcoxon([], []), "at least 1 pairs, got 0"),
        (lambda: holm([0.5, 1.5]), "from 0 to 1"),
        (lambda: holm([float("nan")]), "from 0 to 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
