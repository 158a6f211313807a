import numpy as np
import pytest

from qprobe.engine.data.fields import smooth, wave


@pytest.mark.parametrize(
    ("shape", "cells"), [((40,), (8,)), ((9, 33), (2, 5)), ((4, 20, 30), (2, 4, 4))]
)
def test_a_field_has_the_shape_and_unit_deviation(shape, cells):
    field = smooth(np.random.default_rng(0), shape, cells)
    assert field.shape == shape
    assert field.dtype == np.float32
    assert field.std() == pytest.approx(1, abs=1e-5)


def test_a_field_changes_little_between_neighbours_and_more_with_more_cells():
    steps = [
        np.abs(np.diff(smooth(np.random.default_rng(1), (256, 256), (n, n)))).mean()
        for n in (2, 16)
    ]
    assert steps[0] < 0.02 < steps[1] < 0.2


def test_axes_keep_their_order():
    """One cell along the rows and many along the columns: rows vary slowly, columns fast."""
    field = smooth(np.random.default_rng(0), (64, 64), (1, 24))
    assert np.abs(np.diff(field, axis=0)).mean() < 0.2 * np.abs(np.diff(field, axis=1)).mean()


def test_splines_sum_to_one():
    """The same height at every knot is a constant field (before its deviation is divided out)."""

    class Ones:
        def standard_normal(self, shape, dtype):
            return np.ones(shape, dtype)

    field = smooth(Ones(), (17, 23), (4, 5)) * 1e-6
    np.testing.assert_allclose(field, 1, atol=1e-5)


def test_a_wave_is_closed_and_of_unit_variance():
    curve = wave(np.random.default_rng(0), range(2, 6), 4096)
    assert np.mean(curve) == pytest.approx(0, abs=1e-5)
    assert np.mean(curve**2) == pytest.approx(1, abs=1e-4)
    assert abs(curve[0] - curve[-1]) < 0.02
