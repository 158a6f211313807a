"""What a recipe does to a score, from pairs of runs that differ in nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from qprobe.errors import InputError
from qprobe.inference.effect import cohens_d, mean_interval
from qprobe.inference.interval import Interval
from qprobe.inference.paired import SignedRank, holm, wilcoxon

#: What a pair has in common: seed and fold.
Key = tuple[int, int | None]


class Verdict(StrEnum):
    """What the pairs say about a recipe."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference found"
    TOO_FEW_PAIRS = "too few pairs to say"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean of ``n`` values with its t interval; one value has none."""

    estimate: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A recipe against the baseline, pair by pair.

    ``difference`` is recipe − baseline; ``ratio`` is recipe / baseline, None where a baseline score
    is not above zero. ``p`` is of the Wilcoxon signed-rank test, ``p_holm`` after Holm's correction
    over the recipes of the group, ``smallest_p`` the least corrected p that so many pairs can give.
    ``cohens_d`` is None below three pairs and where all differences are equal.
    """

    difference: Mean
    ratio: Mean | None
    p: float
    p_holm: float
    smallest_p: float
    cohens_d: Interval | None
    equal: int
    """Pairs whose two scores are the same."""
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Scores of one recipe and of the baseline, side by side."""

    recipe: Sequence[float]
    baseline: Sequence[float]


def mean(values: Sequence[float], level: float) -> Mean:
    """The mean with its interval where there are two values or more.

    >>> mean([0.5], 0.95)
    Mean(estimate=0.5, low=None, high=None, n=1)
    """
    if not values:
        raise InputError("a mean needs at least 1 value, got none.")
    if len(values) == 1:
        return Mean(estimate=values[0], low=None, high=None, n=1)
    found = mean_interval(values, level)
    return Mean(estimate=found.estimate, low=found.low, high=found.high, n=found.n)


def effects(family: Sequence[Pairs], *, level: float, higher_is_better: bool) -> list[Effect]:
    """The effect of each recipe of one group, tested together.

    A difference is found where ``p_holm ≤ 1 − level``. Where even the smallest p that the pairs can
    give, corrected, is above that, nothing was tested and the answer is that pairs are too few.
    """
    tests = [wilcoxon(pairs.recipe, pairs.baseline) for pairs in family]
    adjusted = holm([test.p for test in tests])
    # Holm's p of one recipe falls with every p of the family, so this is the least there can be.
    least = holm([_smallest(test) for test in tests])
    return [
        Effect(
            difference=(difference := mean(_differences(pairs), level)),
            ratio=_ratio(pairs, level),
            p=test.p,
            p_holm=p_holm,
            smallest_p=smallest,
            cohens_d=_standardised(pairs, level),
            equal=test.zeros,
            verdict=_verdict(
                p_holm, smallest, 1 - level, difference.estimate * (1 if higher_is_better else -1)
            ),
        )
        for pairs, test, p_holm, smallest in zip(family, tests, adjusted, least, strict=True)
    ]


def by_key(
    scores: Mapping[str, Mapping[Key, float]],
    baseline: str,
    *,
    level: float,
    higher_is_better: bool,
) -> dict[str, Effect]:
    """Effects of the recipes that share a seed and fold with the baseline, by name, as one family.

    >>> scores = {"bf16": {(0, None): 0.8, (1, None): 0.7}, "x": {(1, None): 0.5, (2, None): 0.9}}
    >>> effect = by_key(scores, "bf16", level=0.95, higher_is_better=True)["x"]
    >>> effect.difference.n, round(effect.difference.estimate, 6)
    (1, -0.2)
    """
    theirs = scores.get(baseline, {})
    paired: dict[str, Pairs] = {}
    for recipe in sorted(scores.keys() - {baseline}):
        keys = sorted(scores[recipe].keys() & theirs.keys(), key=by_fold)
        if keys:
            paired[recipe] = Pairs(
                recipe=[scores[recipe][key] for key in keys],
                baseline=[theirs[key] for key in keys],
            )
    found = effects(list(paired.values()), level=level, higher_is_better=higher_is_better)
    return dict(zip(paired, found, strict=True))


def by_fold(key: Key) -> tuple[int, int]:
    """The order of pairs: by seed, then by fold, those without a fold first."""
    return key[0], -1 if key[1] is None else key[1]


def _smallest(test: SignedRank) -> float:
    """Pairs that turned out equal were tested too: they count for what could have been found."""
    return min(1.0, 2.0 ** (1 - test.n))


def _verdict(p_holm: float, smallest: float, alpha: float, gain: float) -> Verdict:
    # 1 − 0.95 is a little more than 0.05 in binary; a p of exactly 0.05 counts as found.
    alpha += 1e-12
    if smallest > alpha:
        return Verdict.TOO_FEW_PAIRS
    if p_holm > alpha:
        return Verdict.NO_DIFFERENCE
    return Verdict.BETTER if gain > 0 else Verdict.WORSE


def _differences(pairs: Pairs) -> list[float]:
    return [ours - theirs for ours, theirs in zip(pairs.recipe, pairs.baseline, strict=True)]


def _ratio(pairs: Pairs, level: float) -> Mean | None:
    if min(pairs.baseline) <= 0:
        return None
    ratios = [ours / theirs for ours, theirs in zip(pairs.recipe, pairs.baseline, strict=True)]
    return mean(ratios, level)


def _standardised(pairs: Pairs, level: float) -> Interval | None:
    apart = _differences(pairs)
    spread = max(apart) - min(apart)
    # The bounds within which Cohen's d exists, see there.
    if len(apart) < 3 or spread <= 1e-9 * max(map(abs, apart)):
        return None
    return cohens_d(pairs.recipe, pairs.baseline, level)
