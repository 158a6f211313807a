"""Do two rankings agree: Kendall's tau-b with an interval."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import ndtri

from qprobe.errors import InputError
from qprobe.inference.interval import Interval, check_level

Floats = NDArray[np.float64]

#: Variance of the z-transformed tau times n − 4 (Fieller, Hartley and Pearson 1957).
_VARIANCE = 0.437


def kendall_tau(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Interval:
    """τ-b = (C − D)/√((C+D+T₁)(C+D+T₂)): concordant, discordant and tied pairs.

    The limits are ``tanh(artanh τ ± z·√(0.437/(n − 4)))``, made for few ties, |τ| < 0.8 and n ≥ 10;
    outside it they are rough, and below five items they are refused. At |τ| = 1, where the
    transform is infinite, the inner limit is taken at half a pair less than perfect and the outer
    limit is 1.

    Reference: Fieller, Hartley, Pearson 1957, "Tests for rank correlation coefficients I".

    >>> found = kendall_tau([1, 2, 3, 4, 5, 6], [2, 1, 3, 4, 6, 5])
    >>> round(found.estimate, 4), round(found.low, 3), round(found.high, 3)
    (0.7333, 0.02, 0.952)
    """
    check_level(level)
    one, other = _rankings(first, second)
    n = one.size
    # tau moves in steps of one pair, far above rounding.
    tau = round(float(stats.kendalltau(one, other).statistic), 12)
    perfect = 1.0 - 2.0 / (n * (n - 1))
    centre = np.arctanh(np.clip(tau, -perfect, perfect))
    half = ndtri((1 + level) / 2) * np.sqrt(_VARIANCE / (n - 4))
    low, high = float(np.tanh(centre - half)), float(np.tanh(centre + half))
    return Interval(
        estimate=tau,
        low=-1.0 if tau <= -perfect else low,
        high=1.0 if tau >= perfect else high,
        level=level,
        n=n,
        method="Fieller z",
    )


def _rankings(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise InputError(
            f"rankings are two sequences of one length, got {one.shape} and {other.shape}."
        )
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise InputError("a ranking holds NaN or inf; leave out the items that were not measured.")
    n = one.size
    if n < 5:
        raise InputError(f"tau with an interval needs at least 5 items, got {n}.")
    for values in (one, other):
        if (values == values[0]).all():
            raise InputError(f"all {n} values of one ranking are equal, so it has no order.")
    return one, other
