import math

import numpy as np
import pytest
from scipy import stats

from qprobe.errors import InputError
from qprobe.inference.against_baseline import Effect, Pairs, Verdict, effects, mean

BASE = [0.80, 0.82, 0.79, 0.81, 0.83, 0.80, 0.78, 0.84]


def shifted(by: list[float]) -> Pairs:
    return Pairs(recipe=[b + d for b, d in zip(BASE, by, strict=False)], baseline=BASE[: len(by)])


def alone(pairs: Pairs, *, higher_is_better: bool = True, level: float = 0.95) -> Effect:
    (effect,) = effects([pairs], level=level, higher_is_better=higher_is_better)
    return effect


WORSE = [-0.02, -0.03, -0.01, -0.04, -0.025, -0.015]


def test_against_scipy():
    pairs = shifted(WORSE)
    found = alone(pairs)
    ours, theirs = np.array(pairs.recipe), np.array(pairs.baseline)
    reference = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found.difference.estimate == pytest.approx(np.mean(WORSE))
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(reference))
    assert found.p == stats.wilcoxon(ours, theirs, method="exact").pvalue
    assert found.cohens_d is not None
    assert found.cohens_d.estimate == pytest.approx(np.mean(WORSE) / np.std(WORSE, ddof=1))
    assert found.ratio is not None
    assert found.ratio.estimate == pytest.approx(np.mean(ours / theirs))
    ratios = stats.ttest_1samp(ours / theirs, 0).confidence_interval(0.95)
    assert (found.ratio.low, found.ratio.high) == pytest.approx(tuple(ratios))


def test_six_pairs_of_one_sign_are_just_enough_for_one_recipe_and_not_for_two():
    # 2 of the 2⁶ sign patterns are as extreme.
    one = alone(shifted(WORSE))
    assert (one.p, one.p_holm, one.smallest_p) == (2 / 64, 2 / 64, 2 / 64)
    assert one.verdict is Verdict.WORSE
    for effect in effects([shifted(WORSE)] * 2, level=0.95, higher_is_better=True):
        assert (effect.p, effect.p_holm, effect.smallest_p) == (2 / 64, 4 / 64, 4 / 64)
        assert effect.verdict is Verdict.TOO_FEW_PAIRS


def test_five_pairs_are_too_few_and_the_least_p_is_given():
    found = alone(shifted(WORSE[:5]))
    assert (found.verdict, found.smallest_p) == (Verdict.TOO_FEW_PAIRS, 2 / 32)


def test_the_direction_depends_on_what_is_better():
    assert alone(shifted(WORSE)).verdict is Verdict.WORSE
    assert alone(shifted([-d for d in WORSE])).verdict is Verdict.BETTER
    assert alone(shifted(WORSE), higher_is_better=False).verdict is Verdict.BETTER
    assert alone(shifted([-d for d in WORSE]), higher_is_better=False).verdict is Verdict.WORSE


def test_no_difference_is_an_answer_with_an_interval():
    found = alone(shifted([0.01, -0.012, 0.008, -0.009, 0.011, -0.01]))
    assert found.verdict is Verdict.NO_DIFFERENCE
    assert found.difference.low is not None
    assert found.difference.high is not None
    assert found.difference.low < 0 < found.difference.high


def test_holm_is_over_the_recipes_of_the_group():
    strong = shifted([-0.02, -0.03, -0.01, -0.04, -0.025, -0.015, -0.018, -0.022])
    weak = shifted([-0.02, -0.03, -0.01, -0.04, -0.025, -0.015, 0.001, 0.002])
    first, second = effects([weak, strong], level=0.95, higher_is_better=True)
    assert second.p == 2 / 256
    assert second.p_holm == 2 * second.p
    assert first.p_holm == max(first.p, second.p_holm)
    assert first.p > second.p


def test_equal_runs_are_no_difference_and_have_no_d():
    found = alone(shifted([0.0] * 6))
    assert (found.verdict, found.equal, found.p) == (Verdict.NO_DIFFERENCE, 6, 1.0)
    assert (found.difference.low, found.difference.high) == (0.0, 0.0)
    assert found.cohens_d is None


@pytest.mark.parametrize(("pairs", "has_d"), [(2, False), (3, True)])
def test_cohens_d_needs_three_pairs(pairs: int, has_d: bool):
    assert (alone(shifted(WORSE[:pairs])).cohens_d is not None) is has_d


def test_one_pair_has_a_difference_and_no_interval():
    found = alone(shifted([-0.02]))
    assert found.difference.estimate == pytest.approx(-0.02)
    assert (found.difference.low, found.difference.high, found.difference.n) == (None, None, 1)
    assert (found.smallest_p, found.verdict) == (1.0, Verdict.TOO_FEW_PAIRS)


def test_a_baseline_of_zero_has_no_ratio():
    found = alone(Pairs(recipe=[0.5, 0.6], baseline=[0.0, 0.5]))
    assert found.ratio is None
    assert found.difference.estimate == pytest.approx(0.3)


def test_a_constant_shift_has_no_d_even_where_it_is_not_quite_constant_in_binary():
    found = alone(shifted([-0.1] * 6))
    assert found.cohens_d is None
    assert math.isclose(found.difference.estimate, -0.1)


def test_a_p_of_exactly_the_level_is_found():
    # 0.5 = 2/4: one pattern of two pairs; 1 − 0.5 is exact, 1 − 0.95 is not.
    assert alone(shifted([-0.1, -0.2]), level=0.5).verdict is Verdict.WORSE


def test_no_family_has_no_effects():
    assert effects([], level=0.95, higher_is_better=True) == []


def test_no_values_have_no_mean():
    with pytest.raises(InputError, match="at least 1 value"):
        mean([], 0.95)
