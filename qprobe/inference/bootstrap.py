"""The paired bootstrap over groups, for any score that follows from statistics that add up.

The unit that is drawn is the group (a patient, where known), because images of one patient are not
independent. Drawing groups with replacement and adding their statistics is a product of counts and
statistics, so a thousand draws of an average precision take seconds: nothing is sorted again.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from qprobe.errors import InputError
from qprobe.inference.interval import Interval, check_level

Floats = NDArray[np.float64]
Scores = np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]
#: From summed statistics ``[draws, ...]`` to scores ``[draws]``, masked where undefined.
Reduce = Callable[[Floats], ArrayLike]

#: More undefined draws than this, and the draws that are left describe another population.
MOST_UNDEFINED = 0.05
#: Draws whose statistics are summed and reduced together.
_AT_ONCE = 250
#: Statistics that are zero in all groups are summed with the others up to so many in a row.
_GAP = 64


class Method(StrEnum):
    """How limits follow from the draws."""

    PERCENTILE = "percentile"
    """Quantiles of the draws; too narrow below some 20 groups."""
    BCA = "bca"
    """Quantiles moved for bias and skewness (Efron 1987); second-order right."""


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How to draw; ``generator`` is used up, so give the same seed for the same interval."""

    generator: np.random.Generator
    draws: int = 1000
    level: float = 0.95
    method: Method = Method.BCA

    def __post_init__(self) -> None:
        check_level(self.level)
        tail = (1.0 - self.level) / 2
        if self.draws * tail < 5:
            raise InputError(
                f"{self.draws} draws leave under 5 beyond each limit at level {self.level}; "
                f"take at least {int(np.ceil(5 / tail))}."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Replicates:
    """A score, and what it is in every draw of the groups; masked where undefined."""

    #: Of all groups, ``[1]``.
    estimate: Scores
    #: ``[draws]``.
    draws: Scores
    #: With each group left out, ``[n]``; for BCa only.
    left_out: Scores | None
    n: int
    level: float

    def __sub__(self, other: "Replicates") -> "Replicates":
        """The difference, draw by draw."""
        if (self.n, len(self.draws)) != (other.n, len(other.draws)):
            raise InputError(
                f"replicates are paired by their draws, got {len(self.draws)} draws of {self.n} "
                f"groups and {len(other.draws)} of {other.n}."
            )
        both = self.left_out is not None and other.left_out is not None
        return Replicates(
            estimate=self.estimate - other.estimate,
            draws=self.draws - other.draws,
            left_out=self.left_out - other.left_out if both else None,  # type: ignore[operator]
            n=self.n,
            level=self.level,
        )

    @property
    def judged(self) -> bool:
        """Whether there is an interval: score and nearly all draws are defined."""
        undefined = int(self.draws.mask.sum())
        return not self.estimate.mask.any() and undefined <= MOST_UNDEFINED * len(self.draws)

    def interval(self) -> Interval:
        """The limits; refused where the score or too many of its draws are undefined."""
        if self.estimate.mask.any():
            raise InputError(
                f"the score of all {self.n} groups together is undefined; add samples."
            )
        undefined, total = int(self.draws.mask.sum()), len(self.draws)
        if undefined > MOST_UNDEFINED * total:
            raise InputError(
                f"the score is undefined in {undefined} of {total} draws of {self.n} groups; "
                "too few groups carry what it needs (such as foreground), so add samples."
            )
        kept, estimate, limits = self.draws.compressed(), float(self.estimate[0]), None
        method = str(Method.PERCENTILE)
        if self.left_out is not None:
            if not self.left_out.mask.any():
                limits = bca_limits(kept, estimate, self.left_out.compressed(), self.level)
            method = str(Method.BCA) if limits else "percentile (bca does not exist here)"
        low, high = limits or _percentiles(kept, self.level)
        return Interval(
            estimate=estimate, low=low, high=high, level=self.level, n=self.n, method=method
        )


def bootstrap(
    statistics: ArrayLike,
    reduce: Reduce,
    resampling: Resampling,
    groups: Sequence[Hashable] | None = None,
) -> Interval:
    """Interval of ``reduce(sum of statistics)``.

    ``statistics`` is ``[samples, ...]``, ``groups`` names the group of each sample (each its own
    without it) and ``n`` of the result is the number of groups. Draws whose score is undefined are
    left out; when they are more than 5 % this is refused, as is a NaN score.

    >>> values = np.arange(8.0)
    >>> with_count = np.stack([values, np.ones(8)], axis=1)
    >>> mean = lambda totals: totals[:, 0] / totals[:, 1]
    >>> found = bootstrap(with_count, mean, Resampling(generator=np.random.default_rng(0)))
    >>> found.estimate, found.n, 1.0 < found.low < 2.5, 4.5 < found.high < 6.0
    (3.5, 8, True, True)
    """
    return replicate(statistics, reduce, resampling, groups).interval()


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    reduce: Reduce,
    resampling: Resampling,
    groups: Sequence[Hashable] | None = None,
) -> Interval:
    """Interval of ``reduce(sum of first) − reduce(sum of second)`` on the same samples.

    Both are resampled together, so what an image or a patient has in common under both cancels.
    Arguments as in :func:`bootstrap`.
    """
    one, other = np.asarray(first), np.asarray(second)
    if one.shape != other.shape:
        raise InputError(
            f"paired statistics are of the same samples, got shapes {one.shape} and {other.shape}."
        )
    before = resampling.generator.bit_generator.state
    left = replicate(one, reduce, resampling, groups)
    resampling.generator.bit_generator.state = before
    return (left - replicate(other, reduce, resampling, groups)).interval()


def bca_limits(
    draws: Floats, estimate: float, left_out: Floats, level: float
) -> tuple[float, float] | None:
    """Bias-corrected and accelerated limits, or None where they do not exist.

    ``z₀ = Φ⁻¹(share of draws below the estimate, ties half)``,
    ``a = Σ(θ̄−θᵢ)³ / 6(Σ(θ̄−θᵢ)²)^{3/2}`` over the estimates θᵢ with one group left out, and the
    limits are the draws' quantiles at ``Φ(z₀ + (z₀ ± z)/(1 − a(z₀ ± z)))``. They do not exist when
    all draws are on one side of the estimate or leaving a group out changes nothing.

    Reference: Efron 1987, "Better Bootstrap Confidence Intervals", eq. 3.6 and 6.6.
    """
    below = float(np.mean(draws < estimate) + 0.5 * np.mean(draws == estimate))
    deviation = left_out.mean() - left_out
    spread = float(np.sum(deviation**2))
    if not 0.0 < below < 1.0 or spread == 0.0:
        return None
    z0 = ndtri(below)
    acceleration = np.sum(deviation**3) / (6.0 * spread**1.5)
    z = z0 + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(draws, ndtr(z0 + z / (1 - acceleration * z)))
    return float(low), float(high)


def replicate(
    statistics: ArrayLike,
    reduce: Reduce,
    resampling: Resampling,
    groups: Sequence[Hashable] | None = None,
) -> Replicates:
    """The score of every draw, for when one set of statistics is compared with many others.

    Arguments as in :func:`bootstrap`. Replicates are paired, so that their difference means what
    :func:`paired_bootstrap` does, when they are of the same groups in the same order and their
    generators had the same seed.

    >>> same = lambda: Resampling(generator=np.random.default_rng(0))
    >>> first, second = np.array([[1.0], [2.0], [4.0]]), np.array([[1.0], [1.0], [2.0]])
    >>> total = lambda totals: totals[:, 0]
    >>> apart = replicate(first, total, same()) - replicate(second, total, same())
    >>> apart.interval() == paired_bootstrap(first, second, total, same())
    True
    """
    part = _by_group(statistics, groups)
    n = len(part)
    if n < 2:
        raise InputError(f"a bootstrap needs at least 2 groups to draw from, got {n}.")
    weights = resampling.generator.multinomial(n, np.full(n, 1.0 / n), size=resampling.draws)
    whole = part.sum(0, keepdims=True)
    bca = resampling.method is Method.BCA
    return Replicates(
        estimate=_checked(reduce(whole), 1),
        draws=_drawn(weights.astype(np.float64), part, reduce),
        left_out=_checked(reduce(whole - part), n) if bca else None,
        n=n,
        level=resampling.level,
    )


def _drawn(weights: Floats, part: Floats, reduce: Reduce) -> Scores:
    """The scores of all draws, a few at a time: what stays in the cache is several times faster.

    Of statistics that are zero in every group, as most bins of a histogram are, no sums are taken.
    Draws lie side by side in memory.
    """
    whole: Scores = np.ma.masked_array(np.zeros(len(weights)), mask=True)
    flat = np.ascontiguousarray(part.reshape(len(part), -1).T)
    kept = np.zeros((len(flat), _AT_ONCE))
    filled = _runs(np.flatnonzero(flat.any(1)))
    for start in range(0, len(weights), _AT_ONCE):
        columns = np.ascontiguousarray(weights[start : start + _AT_ONCE].T)
        totals = kept[:, : columns.shape[1]]
        for run in filled:
            np.matmul(flat[run], columns, out=totals[run])
        scores = reduce(totals.T.reshape(-1, *part.shape[1:]))
        whole[start : start + _AT_ONCE] = _checked(scores, columns.shape[1])
    return whole


def _runs(at: NDArray[np.intp]) -> list[slice]:
    """These places in few pieces: a gap has to be long to be worth a product of its own.

    >>> _runs(np.array([1, 3, 103]))
    [slice(1, 4, None), slice(103, 104, None)]
    """
    pieces = np.split(at, np.flatnonzero(np.diff(at) > _GAP) + 1) if at.size else []
    return [slice(int(piece[0]), int(piece[-1]) + 1) for piece in pieces]


def _percentiles(draws: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(raw: ArrayLike, expected: int) -> Scores:
    scores: Scores = np.ma.masked_array(raw, dtype=np.float64)
    scores.mask = np.ma.getmaskarray(scores)
    if scores.shape != (expected,):
        raise InputError(
            f"reduce turned {expected} rows of summed statistics into shape {scores.shape}; "
            "it has to return one score per row."
        )
    if np.isnan(scores.compressed()).any():
        raise InputError("reduce returned NaN; mask a score that is undefined, or mend the input.")
    return scores


def _by_group(statistics: ArrayLike, groups: Sequence[Hashable] | None) -> Floats:
    values = np.asarray(statistics, dtype=np.float64)
    if values.ndim == 0 or len(values) == 0:
        raise InputError(f"statistics are [samples, ...], got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise InputError("statistics hold NaN or inf, which would spread to every draw.")
    if groups is None:
        return values
    if len(groups) != len(values):
        raise InputError(f"{len(values)} samples need as many groups, got {len(groups)}.")
    index = {group: at for at, group in enumerate(dict.fromkeys(groups))}
    summed = np.zeros((len(index), *values.shape[1:]))
    for group, sample in zip(groups, values, strict=True):
        summed[index[group]] += sample  # the order of np.add.at, which is slow on wide rows
    return summed
