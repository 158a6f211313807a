"""Are two recipes different, over paired runs? Signed ranks, corrected for many comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from qprobe.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRank:
    """Result of :func:`wilcoxon`; ``zeros`` of the ``n`` pairs did not differ and were left out."""

    statistic: float
    p: float
    n: int
    zeros: int
    smallest_p: float
    """The least p that this many differing pairs can give: a level below it is out of reach."""


def differences(first: ArrayLike, second: ArrayLike, least: int = 1) -> Floats:
    """``first − second`` of at least ``least`` finite pairs."""
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise InputError(
            f"pairs are two sequences of one length, got shapes {one.shape} and {other.shape}."
        )
    apart = one - other
    if not np.isfinite(apart).all():
        raise InputError(
            f"{int((~np.isfinite(apart)).sum())} of {apart.size} pairs hold NaN or inf; "
            "decide what a failed run means before comparing."
        )
    if apart.size < least:
        raise InputError(f"this needs at least {least} pairs, got {apart.size}; add runs.")
    return apart


def wilcoxon(first: ArrayLike, second: ArrayLike) -> SignedRank:
    """Two-sided Wilcoxon signed-rank test that the paired differences are symmetric about zero.

    ``statistic`` is the smaller of the rank sums of positive and negative differences; pairs
    without a difference are left out. p is exact up to 50 untied differences, by all sign patterns
    up to 13 tied ones, and normal beyond. With n differing pairs p is never below ``2^{1−n}``:
    five pairs cannot reach 0.05, six can.

    >>> wilcoxon([1.1, 2.3, 3.2, 4.4, 5.6, 6.9], [1, 2, 3, 4, 5, 6]).p
    0.03125
    """
    apart = differences(first, second)
    kept = apart[apart != 0]
    zeros = apart.size - kept.size
    if kept.size == 0:
        return SignedRank(statistic=0.0, p=1.0, n=apart.size, zeros=zeros, smallest_p=1.0)
    ranks = stats.rankdata(np.abs(kept))
    positive = float(ranks[kept > 0].sum())
    statistic = min(positive, float(ranks.sum()) - positive)
    return SignedRank(
        statistic=statistic,
        p=_signed_rank_p(kept, ranks),
        n=apart.size,
        zeros=zeros,
        smallest_p=min(1.0, 2.0 ** (1 - kept.size)),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given.

    With p sorted upwards, ``p̃_(i) = max_{j≤i} min(1, (m − j + 1)·p_(j))``; rejecting p̃ ≤ α keeps
    the chance of any false rejection at α, whatever the dependence.

    >>> [round(p, 4) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"p values are numbers from 0 to 1, got {list(p_values)}.")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.arange(p.size, 0, -1) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(stepped)
    return [float(value) for value in adjusted]


def _signed_rank_p(kept: Floats, ranks: Floats) -> float:
    tied = np.unique(ranks).size < ranks.size
    if not tied:
        method = "exact" if kept.size <= 50 else "asymptotic"
        return float(stats.wilcoxon(kept, method=method).pvalue)
    if kept.size > 13:
        return float(stats.wilcoxon(kept, method="asymptotic").pvalue)
    # Every sign pattern is equally likely when the differences are symmetric about zero.
    bits = (np.arange(2**kept.size)[:, None] >> np.arange(kept.size)) & 1
    centre = ranks.sum() / 2
    distance = np.abs(bits @ ranks - centre)
    seen = abs(float(ranks[kept > 0].sum()) - centre)
    return float(np.mean(distance >= seen - 1e-9))
