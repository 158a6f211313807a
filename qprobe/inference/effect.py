"""How large is a difference: a mean with its interval, and Cohen's d of paired runs."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.optimize import brentq
from scipy.special import gammaln, ndtr

from qprobe.errors import InputError
from qprobe.inference.interval import Interval, check_level
from qprobe.inference.paired import differences

#: The quadrature: panels over the range of s, nodes of each, and where Φ turns from 0 to 1.
_PANELS = 24
_NODES = 20
_RISE = np.linspace(-9.0, 9.0, 10)


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean with the t interval ``x̄ ± t_{n−1}·s/√n``.

    Exact for normal values, good for any n where they are nearly symmetric; from two values on.

    >>> found = mean_interval([1.0, 2.0, 3.0])
    >>> found.estimate, round(found.low, 3), round(found.high, 3)
    (2.0, -0.484, 4.484)
    """
    check_level(level)
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size < 2:
        raise InputError(f"a mean with an interval needs at least 2 values, got {x.size}.")
    if not np.isfinite(x).all():
        raise InputError(f"{int((~np.isfinite(x)).sum())} of {x.size} values are NaN or inf.")
    half = float(stats.t.ppf((1 + level) / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size))
    mean = float(x.mean())
    return Interval(
        estimate=mean, low=mean - half, high=mean + half, level=level, n=x.size, method="t"
    )


def cohens_d(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Interval:
    """Cohen's d of paired values, ``d_z = mean(first − second) / sd(first − second)``.

    Biased away from zero by ``1/J`` (:func:`hedges_g` removes it). The limits are exact for normal
    differences: d_z·√n follows a noncentral t, whose noncentrality is found so that the observed
    value is its upper and lower quantile. From three pairs on; refused when all differences are
    equal, where sd is zero and d does not exist.

    >>> found = cohens_d([2.0, 3.0, 5.0, 6.0], [1.0, 1.0, 2.0, 2.0])
    >>> round(found.estimate, 4), round(found.low, 3), round(found.high, 3)
    (1.9365, 0.146, 3.672)
    """
    check_level(level)
    apart = differences(first, second, least=3)
    spread = float(apart.std(ddof=1))
    if spread <= 1e-12 * float(np.abs(apart).max()):
        raise InputError(
            f"all {apart.size} differences are {apart[0]:g}, so Cohen's d (a ratio to their "
            "spread) does not exist; report the difference itself."
        )
    root = float(np.sqrt(apart.size))
    d = float(apart.mean()) / spread
    low, high = (
        _noncentrality(d * root, apart.size - 1, share) / root
        for share in ((1 + level) / 2, (1 - level) / 2)
    )
    return Interval(
        estimate=d, low=low, high=high, level=level, n=apart.size, method="noncentral t"
    )


def hedges_g(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Interval:
    """Cohen's d_z without its small-sample bias: ``g = J·d_z``, limits likewise.

    ``J = Γ(ν/2) / (√(ν/2)·Γ((ν−1)/2))`` with ν = n − 1, exact for normal differences.
    """
    d = cohens_d(first, second, level)
    factor = hedges_factor(d.n - 1)
    return Interval(
        estimate=factor * d.estimate,
        low=factor * d.low,
        high=factor * d.high,
        level=level,
        n=d.n,
        method="noncentral t, Hedges",
    )


def hedges_factor(freedom: int) -> float:
    """J of :func:`hedges_g` for ν ≥ 2 degrees of freedom; near ``1 − 3/(4ν − 1)``.

    >>> round(hedges_factor(2), 4), round(1 - 3 / 7, 4)
    (0.5642, 0.5714)
    """
    if freedom < 2:
        raise InputError(f"the correction exists from 2 degrees of freedom, got {freedom}.")
    half = freedom / 2
    return float(np.exp(gammaln(half) - gammaln(half - 0.5)) / np.sqrt(half))


def noncentral_t_below(t: float, freedom: int, noncentrality: float) -> float:
    """``P(T ≤ t) = E[Φ(t·s − δ)]`` over ``s = √(χ²_ν/ν)``, by quadrature.

    Absolute error below 1e-12. SciPy's ``nct.cdf`` is NaN in the far tails, which
    a search for δ passes through.

    >>> round(noncentral_t_below(0.0, 7, 1.0), 6)
    0.158655
    """
    tails = np.sqrt(stats.chi2.ppf([1e-14, 1 - 1e-14], freedom) / freedom)
    ends = (float(tails[0]), float(tails[1]))
    # Φ rises from 0 to 1 within a few 1/|t| around s = δ/t: panels of that width are put there.
    rise = (noncentrality + _RISE * np.sign(t)) / t if t else np.empty(0)
    edges = np.sort(np.clip(np.append(np.linspace(ends[0], ends[1], _PANELS + 1), rise), *ends))
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    half = np.diff(edges)[:, None] / 2
    s = (edges[:-1, None] + half) + half * nodes
    density = stats.chi2.pdf(freedom * s**2, freedom) * 2 * freedom * s
    return float(np.sum(ndtr(t * s - noncentrality) * density * weights * half))


def _noncentrality(t: float, freedom: int, share: float) -> float:
    """The noncentrality at which ``share`` of the noncentral t lies below ``t``.

    The share falls as the noncentrality grows, so a bracket is widened until it holds the root.
    """

    def excess(noncentrality: float) -> float:
        return noncentral_t_below(t, freedom, noncentrality) - share

    reach = 5.0 + abs(t)
    while excess(t - reach) < 0 or excess(t + reach) > 0:
        reach *= 2
    return float(brentq(excess, t - reach, t + reach, xtol=1e-8))
