"""Average precision: exact from scores, and from histograms that can be added and resampled.

A pooled average precision is no mean of per-image values, so an image keeps two histograms of its
logits, of negative and of positive pixels. They add up over images, and a bootstrap draw is a
weighted sum.
"""

import math
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.special import digamma

from qprobe import native
from qprobe.errors import InputError
from qprobe.inference import average_precision_native

Floats = NDArray[np.float64]
#: Values of which some may be undefined; ``.tolist()`` gives None for those.
Masked = np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]
#: From here on digamma is its asymptotic series to the last digit.
_SERIES = 48.0
#: Counts that are worked on together.
_BLOCK = 2**13


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
    negatives, positives = _counts(histograms)
    leading, bins = positives.shape[:-1], positives.shape[-1]
    sums_of = _sums if native.kernels is None else average_precision_native.sums
    found = sums_of(negatives.reshape(-1, bins), positives.reshape(-1, bins))
    total, hits = found.reshape(2, *leading)
    return _per_positive(total, hits)


def _sums(negatives: Floats, positives: Floats) -> Floats:
    """What all positives of each row of bins add, and their number: ``[2, rows]``."""
    # Bins above or below all positives need no harmonic sum, which is most of the work.
    holding = _filled(positives)
    before = negatives[:, holding.stop :].sum(-1)
    negatives, positives = negatives[:, holding], positives[:, holding]
    found = np.empty((2, len(positives)))
    for rows in _blocks(*positives.shape):
        found[:, rows] = _summed(negatives[rows], positives[rows], before[rows])
    return found


def _summed(negatives: Floats, positives: Floats, before: Floats) -> tuple[Floats, Floats]:
    """What all positives of each row add, ``before`` negatives being above; and their number."""
    hits, start, stretch, harmonic, *work = _WORK.arrays(7, positives.shape)
    of_row = _above(positives, hits)
    _above(negatives, start)
    start += hits
    start += before[:, None]
    np.add(positives, 1, out=stretch)
    np.divide(negatives, stretch, out=stretch)
    stretch += 1
    start /= stretch
    _harmonic(start, positives, harmonic, work)
    hits -= start
    hits *= harmonic
    hits += positives
    hits /= stretch
    return hits.sum(-1), of_row


def _above(counts: Floats, out: Floats) -> Floats:
    """Into ``out`` how many each row has in the bins above; returns how many in all."""
    np.cumsum(counts, axis=-1, out=out)
    of_row = out[:, -1:].copy() if out.shape[1] else np.zeros((len(out), 1))
    np.subtract(of_row, out, out=out)
    return of_row[:, 0]


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


def _harmonic(start: Floats, count: Floats, out: Floats, work: Sequence[Floats]) -> None:
    """``Σ_{i=1..count} 1/(start + i) = ψ(start + count + 1) − ψ(start + 1)`` into ``out``.

    From 48 on by the series ``ψ(x + ½) = ln x + 1/24x² − 7/960x⁴ + 31/8064x⁶``, whose first term
    left out is 2e-16 there; it costs a fraction of the function itself.
    """
    first, last, tail = work
    np.add(start, 0.5, out=first)
    np.add(first, count, out=last)
    np.divide(last, first, out=out)
    np.log(out, out=out)
    out += _tail(last, tail)
    out -= _tail(first, tail)
    small = start < _SERIES
    small &= count > 0
    low = start[small] + 1
    out[small] = digamma(low + count[small]) - digamma(low)


def _tail(x: Floats, out: Floats) -> Floats:
    """``ψ(x + ½) − ln x`` from its series; ``x`` is used up."""
    x *= x
    square = np.divide(1.0, x, out=x)
    np.multiply(square, 31 / 8064, out=out)
    for term in (-7 / 960, 1 / 24):
        out += term
        out *= square
    return out


def _filled(counts: Floats) -> slice:
    """From the first to the last bin that holds something in some row."""
    filled = np.flatnonzero(counts.any(0))
    return slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 0)


def _blocks(rows: int, bins: int) -> Iterator[slice]:
    """Rows that are worked on together: what stays in the cache is several times faster."""
    few = max(1, _BLOCK // max(1, bins))
    return (slice(start, start + few) for start in range(0, rows, few))


class _Work(threading.local):
    """Memory that a thread uses again: taking new pages costs several times the sums in them."""

    def __init__(self) -> None:
        self._kept = np.empty(0)

    def arrays(self, count: int, shape: tuple[int, ...]) -> Floats:
        """``count`` arrays, whatever is in them, until the next call."""
        size = count * math.prod(shape)
        if size > self._kept.size:
            self._kept = np.empty(size)
        return self._kept[:size].reshape(count, *shape)


_WORK = _Work()


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
    """Negatives and positives, highest bin first."""
    negatives, positives = _counts(histograms)
    return negatives[..., ::-1], positives[..., ::-1]


def _counts(histograms: ArrayLike) -> tuple[Floats, Floats]:
    counts = np.asarray(histograms, dtype=np.float64)
    if counts.ndim < 2 or counts.shape[-2] != 2 or counts.shape[-1] == 0:
        raise InputError(f"histograms are [..., 2, bins], got shape {counts.shape}.")
    return counts[..., 0, :], counts[..., 1, :]


def _per_positive(total: Floats, positives: Floats) -> Masked:
    none = np.asarray(positives) == 0
    values = np.asarray(total) / np.where(none, 1.0, positives)
    result: Masked = np.ma.masked_array(values, mask=none)
    return result
