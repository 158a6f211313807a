"""The kernel of average precision against its definition and against NumPy."""

import numpy as np
import pytest
from scipy.special import digamma

from qprobe import native
from qprobe.inference.average_precision_native import sums
from qprobe.inference.precision_recall import _sums, average_precision_of_histograms

needs_kernels = pytest.mark.skipif(native.kernels is None, reason=native.describe())
LIMITS = [pytest.param(limit, id=limit.name.lower()) for limit in native.InstructionSet]
KINDS = ["few", "many", "broken", "mixed", "apart"]


@pytest.fixture(params=LIMITS)
def limited(request):
    """Kernels with such instructions at most."""
    native.kernels.select(request.param)
    yield
    native.kernels.select(native.InstructionSet.AVX512)


def harmonic(start, count):
    """``Σ 1/(start + i)``, one by one where these are whole and few: differences lose digits."""
    if count == int(count) and count < 2000:
        return float(np.sum(1.0 / (start + np.arange(1, int(count) + 1))))
    return digamma(start + count + 1) - digamma(start + 1)


def defined(negatives, positives):
    """The sum of the definition, bin by bin."""
    total = hits = misses = 0.0
    for n, p in zip(negatives[::-1], positives[::-1], strict=True):
        c = 1 + n / (p + 1)
        s = (hits + misses) / c
        total += (p + (hits - s) * harmonic(s, p)) / c
        hits, misses = hits + p, misses + n
    return total, hits


def rounding(counts):
    """What cancels in a bin is as large as all counts together."""
    return 1e-15 * counts.sum((1, 2))


def drawn(kind, rows, bins):
    """Histograms of few, many, broken and missing counts, the last without positives."""
    rng = np.random.default_rng(rows + bins)
    shape = (rows, 2, bins)
    counts = {
        "few": rng.integers(0, 3, shape),
        "many": rng.integers(0, 90_000, shape),
        "broken": rng.exponential(5.0, shape),
        "mixed": rng.integers(0, 10 ** rng.integers(0, 6, shape)),
        "apart": rng.integers(0, 30, shape) * (np.arange(2 * bins).reshape(2, bins) % 3 > 0),
    }[kind].astype(np.float64)
    counts[-1, 1] = 0
    return counts


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (33, 40), (64, 17), (70, 300)])
def test_it_sums_what_is_defined(limited, kind, shape):
    counts = drawn(kind, *shape)
    expected = np.array([defined(*row) for row in counts]).T
    side_by_side = np.ascontiguousarray(counts.transpose(1, 2, 0)).transpose(2, 0, 1)
    for given in (counts, side_by_side):
        total, hits = sums(given[:, 0], given[:, 1])
        assert (np.abs(total - expected[0]) <= rounding(counts) + 1e-13 * expected[0]).all()
        np.testing.assert_allclose(hits, expected[1], rtol=1e-15)
        assert total[-1] == hits[-1] == 0.0


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_what_numpy_gives(limited, kind):
    counts = drawn(kind, 40, 200)
    negatives, positives = counts.transpose(1, 0, 2)
    of_numpy = _sums(negatives, positives)
    apart = np.abs(sums(negatives, positives) - of_numpy)
    # NumPy's differences of logarithms lose digits where bins hold few of many.
    assert (apart <= 10 * rounding(counts) + 1e-12 * of_numpy).all()


@needs_kernels
def test_rows_may_lie_in_any_order_and_with_gaps():
    counts = drawn("mixed", 50, 60)
    expected = sums(counts[:, 0], counts[:, 1])
    backwards = sums(counts[::-1, 0], counts[::-1, 1])
    assert (backwards[:, ::-1] == expected).all()
    apart = np.zeros((50, 2, 120))
    apart[..., ::2] = counts
    assert (sums(apart[:, 0, ::2], apart[:, 1, ::2]) == expected).all()
    one_apart = sums(apart[:, 0, ::2], counts[:, 1])
    assert (one_apart == expected).all()


def test_without_kernels_numpy_sums(monkeypatch):
    counts = drawn("mixed", 9, 50)
    before = average_precision_of_histograms(counts)
    monkeypatch.setattr(native, "kernels", None)
    after = average_precision_of_histograms(counts)
    np.testing.assert_allclose(after, before, rtol=1e-12)
    assert after.mask.tolist() == before.mask.tolist() == [False] * 8 + [True]
