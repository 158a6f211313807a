"""Fewer points that look the same: spikes are what we look for, so they stay."""

import numpy as np
from numpy.typing import NDArray

from qprobe.records import Series


def decimated(series: Series, points: int = 4000) -> Series:
    """The smallest and the largest value of equal parts, in the order of their steps.

    NaN and infinity stay too: a part that has some keeps its first.

    >>> many = Series(steps=np.arange(10**5), values=np.zeros(10**5))
    >>> len(decimated(many, 100)) <= 100
    True
    """
    if len(series) <= points:
        return series
    parts = points // 3
    edges = np.linspace(0, len(series), parts + 1).astype(np.int64)[:-1]
    size = np.diff(np.append(edges, len(series)))
    finite = np.isfinite(series.values)
    kept = [
        _places(np.where(finite, sign * series.values, np.inf), edges, size) for sign in (1, -1)
    ]
    kept.append(_places(np.where(finite, 1.0, 0.0), edges, size))
    chosen = np.unique(np.concatenate(kept))
    return Series(steps=series.steps[chosen], values=series.values[chosen])


def _places(
    values: NDArray[np.float64], edges: NDArray[np.int64], size: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where each part has its smallest value, the first of equals."""
    least = np.repeat(np.minimum.reduceat(values, edges), size)
    hits = np.flatnonzero(values == least)
    first = np.searchsorted(hits, edges)
    found: NDArray[np.int64] = hits[first]
    return found
