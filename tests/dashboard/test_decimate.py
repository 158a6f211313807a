import numpy as np
import pytest

from qprobe.dashboard.decimate import decimated
from qprobe.records import Series


@pytest.mark.parametrize("count", [4001, 50_000, 123_457])
def test_spikes_and_nan_stay(count):
    random = np.random.default_rng(count)
    values = random.standard_normal(count)
    values[count // 3], values[count // 2], values[7] = 99.0, -99.0, np.nan
    thin = decimated(Series(steps=np.arange(count), values=values))
    assert len(thin) <= 4000
    assert np.all(np.diff(thin.steps) > 0)
    assert thin.values[thin.steps == count // 3] == 99.0
    assert thin.values[thin.steps == count // 2] == -99.0
    assert np.isnan(thin.values[thin.steps == 7])
    np.testing.assert_array_equal(thin.values, values[thin.steps])


def test_every_part_keeps_its_extremes():
    values = np.sin(np.arange(9000) / 50)
    thin = decimated(Series(steps=np.arange(9000), values=values), 300)
    for part in np.array_split(np.arange(9000), 100):
        kept = thin.values[(thin.steps >= part[0]) & (thin.steps <= part[-1])]
        assert kept.min() == values[part].min()
        assert kept.max() == values[part].max()


def test_what_is_short_is_left_alone():
    series = Series(steps=np.arange(10), values=np.full(10, np.nan))
    assert decimated(series) is series
