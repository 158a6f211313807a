"""Average precision: exact from scores, and from histograms that can be added and resampled.

A pooled average precision is no mean of per-image values, so an image keeps two histograms of its
logits, of negative and of positive pixels. They add up over images, and a bootstrap draw is a
weighted sum.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.special import digamma

from qprobe.errors import InputError

Floats = NDArray[np.float64]
#: Values of which some may be undefined; ``.tolist()`` gives None for those.
Masked = np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]
#: From here on digamma is its asymptotic series to the last digit.
_SERIES = 16.0


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the precision-recall steps, ``Σ (R_i − R_{i−1})·P_i`` over distinct scores.

    Same definition as scikit-learn's ``average_precision_score``: no interpolation, tied scores
    enter together.

    >>> round(average_precision([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0]), 4)
    0.8333
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    if values.shape != truth.shape:
        raise InputError(
            f"scores of shape {values.shape} need labels of that shape, got {truth.shape}."
        )
    values, truth = values.ravel(), truth.ravel()
    if np.isnan(values).any():
        raise InputError(f"{int(np.isnan(values).sum())} of {values.size} scores are NaN.")
    if not truth.any():
        raise InputError(
            f"none of {truth.size} labels is positive, so average precision is undefined; "
            "pool images that have foreground."
        )
    order = np.argsort(-values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), values.size - 1)
    hits = np.cumsum(truth[order])[ends]
    gained = np.diff(hits, prepend=0) / hits[-1]
    return float(np.sum(gained * hits / (ends + 1)))


def average_precision_of_histograms(histograms: ArrayLike) -> Masked:
    """Average precision of binned scores, for every leading index at once.

    ``histograms`` is ``[..., 2, bins]``: counts of negatives and positives in bins of rising score.
    Inside a bin of n negatives and p positives the order is taken as random, so n·i/(p+1) of the
    negatives come before the i-th positive. With h hits and m misses in the bins above, these
    positives add ``Σ_{i=1..p} (h+i)/(h+i+m+n·i/(p+1)) = [p + (h − s)(ψ(s+p+1) − ψ(s+1))]/c``,
    c = 1 + n/(p+1), s = (h+m)/c, ψ the digamma function.

    Exact where no bin holds both kinds; elsewhere :func:`average_precision_bounds` encloses the
    value, and the error is far below them when many bins are filled. Masked where there is no
    positive.

    >>> average_precision_of_histograms([[1, 0, 1, 0], [0, 1, 0, 1]]).round(4).tolist()
    0.8333
    """
    negatives, positives = _descending(histograms)
    # Bins above the first score add nothing, and those above or below all positives need no
    # harmonic sum, which is most of the work.
    of_both = [_largest(one) for one in (negatives, positives)]
    scored, holding = _filled(*of_both), _filled(of_both[1])
    negatives, positives = (
        np.ascontiguousarray(part[..., scored]) for part in (negatives, positives)
    )
    hits = positives.cumsum(-1) - positives
    seen = hits + negatives.cumsum(-1) - negatives
    holding = slice(holding.start - scored.start, holding.stop - scored.start)
    negatives, positives, hits, seen = (
        part[..., holding] for part in (negatives, positives, hits, seen)
    )
    stretch = 1 + negatives / (positives + 1)
    start = seen / stretch
    harmonic = _harmonic(start + 1, positives)
    added = (positives + (hits - start) * harmonic) / stretch
    return _per_positive(added.sum(-1), positives.sum(-1))


def average_precision_slopes(histograms: ArrayLike, smooth: float = 4.0) -> Floats:
    """What average precision gains for each bin by which one score rises, to first order.

    ``histograms`` as above; so is the result, for a negative and for a positive in each bin. With
    densities n and p of negatives and positives, N and P their numbers at a score or above::

        AP = 1/P(−∞) ∫ p P/(P + N)        w = P / (P(−∞) (P + N)²)
        a positive gains w·n, a negative −w·p

    since a score that rises passes scores of the other kind alone. Densities are the counts,
    smoothed by a Gaussian of ``smooth`` bins. Zero where there is no positive. If all rise by the
    same, nothing changes: the gains of all scores add up to zero.

    >>> gains = average_precision_slopes([[1, 0, 1, 0], [0, 1, 0, 1]], smooth=0)
    >>> gains.round(4).tolist()
    [[-0.0, -0.12, -0.0, -1.0], [0.0816, 0.0, 0.2222, 0.0]]
    """
    counts = np.asarray(histograms, dtype=np.float64)
    if smooth > 0:
        counts = gaussian_filter1d(counts, smooth, axis=-1)
    # Half of a bin's own are at its scores or above.
    above = np.flip(np.flip(counts, -1).cumsum(-1), -1) - counts / 2
    hits, all_ = above[..., 1, :], above.sum(-2)
    positives = counts[..., 1, :].sum(-1, keepdims=True)
    weight = np.divide(hits, positives * all_**2, out=np.zeros_like(hits), where=hits > 0)
    return np.stack([-weight * counts[..., 1, :], weight * counts[..., 0, :]], axis=-2)


def _harmonic(first: Floats, count: Floats) -> Floats:
    """``ψ(first + count) − ψ(first)``, for counts of any size the sum of ``1/(first + i)``.

    From 16 on by the series ``ψ(x) = ln x − 1/2x − 1/12x² + 1/120x⁴ − 1/252x⁶ + 1/240x⁸``, whose
    first term left out is 7e-15 there; it costs a fraction of the function itself.

    >>> _harmonic(np.array([1.0, 100.0]), np.array([2.0, 1.0])).round(12).tolist()
    [1.5, 0.01]
    """
    last = first + count
    found: Floats = np.log(last / first) + _correction(first) - _correction(last)
    small = first < _SERIES
    found[small] = digamma(last[small]) - digamma(first[small])
    return found


def _correction(x: Floats) -> Floats:
    """``ln x − ψ(x)`` from its series."""
    inverse: Floats = 1.0 / x
    square = inverse * inverse
    tail = square / 240  # in place from here on: this is where a bootstrap spends its time
    for term in (1 / 252, 1 / 120, 1 / 12):
        np.subtract(term, tail, out=tail)
        tail *= square
    inverse *= 0.5
    inverse += tail
    return inverse


def _largest(counts: Floats) -> Floats:
    """The largest count of each bin over all leading indices."""
    found: Floats = counts.max(tuple(range(counts.ndim - 1)), initial=0.0)
    return found


def _filled(*largest: Floats) -> slice:
    """From the first to the last bin that holds something somewhere."""
    filled = np.flatnonzero(np.maximum.reduce(largest))
    return slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 0)


def average_precision_bounds(histograms: ArrayLike) -> tuple[Masked, Masked]:
    """The lowest and highest average precision that scores with these histograms can have.

    Lowest when each bin's negatives outrank its positives and these are all distinct: with h hits
    and m misses down to the bin's end, p of them positives of the bin, they add
    ``Σ_{i=1..p} (h−p+i)/(h−p+i+m) = p − m·[ψ(h+m+1) − ψ(h−p+m+1)]``, ψ the digamma function.
    Highest when its positives are tied and outrank its negatives: ``p·h/(h + m₀)``, m₀ the misses
    before the bin. The exact value and that of the histograms are both inside, ties or not.

    >>> low, high = average_precision_bounds([[1, 1, 0], [0, 1, 1]])
    >>> round(float(low), 4), round(float(high), 4)
    (0.8333, 1.0)
    """
    negatives, positives = _descending(histograms)
    hits, misses = positives.cumsum(-1), negatives.cumsum(-1)
    reached = hits + misses
    lowest = positives - misses * (digamma(reached + 1) - digamma(reached - positives + 1))
    highest = positives * hits / np.maximum(reached - negatives, 1e-300)
    return (
        _per_positive(lowest.sum(-1), hits[..., -1]),
        _per_positive(highest.sum(-1), hits[..., -1]),
    )


def precision_recall(histogram: ArrayLike) -> tuple[Floats, Floats]:
    """Precision and recall when everything from a bin upwards is called positive.

    Highest bin first, bins before the first score left out; for one histogram ``[2, bins]``.

    >>> precision, recall = precision_recall([[1, 1, 0], [0, 1, 1]])
    >>> precision.tolist(), recall.tolist()
    ([1.0, 0.6666666666666666, 0.5], [0.5, 1.0, 1.0])
    """
    negatives, positives = _descending(histogram)
    hits, misses = positives.cumsum(-1), negatives.cumsum(-1)
    if hits.ndim != 1 or hits[-1] == 0:
        raise InputError("a precision-recall curve needs one histogram with positives in it.")
    seen = hits + misses > 0
    return hits[seen] / (hits + misses)[seen], hits[seen] / hits[-1]


def _descending(histograms: ArrayLike) -> tuple[Floats, Floats]:
    counts = np.asarray(histograms, dtype=np.float64)
    if counts.ndim < 2 or counts.shape[-2] != 2 or counts.shape[-1] == 0:
        raise InputError(f"histograms are [..., 2, bins], got shape {counts.shape}.")
    return counts[..., 0, ::-1], counts[..., 1, ::-1]


def _per_positive(total: Floats, positives: Floats) -> Masked:
    none = np.asarray(positives) == 0
    values = np.asarray(total) / np.where(none, 1.0, positives)
    result: Masked = np.ma.masked_array(values, mask=none)
    return result
