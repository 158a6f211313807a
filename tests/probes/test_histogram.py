"""The histogram probe against NumPy's frexp."""

import math

import numpy as np
import pytest
import torch

from qprobe.probes.base import SiteView
from qprobe.probes.histogram import Histogram
from qprobe.records.schema import Role
from qprobe.sites import Site


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_octaves_are_numpys(dtype, summed, generator):
    x = (torch.randn(200, 24, generator=generator) * 3).exp().to(dtype)
    x[::7] = 0.0
    state = Histogram().observe(summed(x))
    wide = x.double().numpy().ravel()
    octaves = np.frexp(wide[wide != 0])[1] - 1
    counts = np.bincount(octaves + 40, minlength=64)
    assert state.arrays()["magnitudes"].tolist() == counts.tolist()
    found = {key: value.item() for key, value in state.scalars().items()}
    assert (found["n"], found["zero"]) == (x.numel(), int((wide == 0).sum()))
    assert found["zero_fraction"] == (wide == 0).mean()
    for key, q in (("log2_p1", 0.01), ("log2_median", 0.5), ("log2_p99", 0.99)):
        assert found[key] == np.quantile(octaves, q, method="inverted_cdf")


def test_counts_of_micro_batches_add(summed, generator):
    x = torch.randn(300, 8, generator=generator) + 100.0
    whole, one, two = (Histogram().observe(summed(part)) for part in (x, x[:37], x[37:]))
    merged = two.merge(one.to("cpu"))
    assert torch.equal(merged.counts, whole.counts)
    assert merged.scalars() == whole.scalars()


def test_nan_and_infinity_have_counters_of_their_own(summed, generator):
    x = torch.randn(100, 8, generator=generator)
    x[1, 2], x[3, 4], x[5, 6] = math.nan, math.inf, -math.inf
    state = Histogram().observe(summed(x, every=8))
    found = state.scalars()
    assert (found["nan"], found["infinite"]) == (1, 2)  # of all, though one token in eight is seen
    assert found["n"] < x.numel() / 6
    both = state.merge(state).scalars()
    assert (both["nan"], both["infinite"]) == (2, 4)


def test_zero_is_a_count_and_nothing_is_missing(summed):
    zero = Histogram().observe(summed(torch.zeros(10, 4))).scalars()
    assert (zero["zero"], zero["zero_fraction"]) == (40, 1)
    assert "log2_median" not in zero
    nothing = Histogram().observe(summed(torch.empty(0, 4))).scalars()
    assert set(nothing) == {"n", "zero", "nan", "infinite"}
    one = Histogram().observe(summed(torch.tensor([[-0.3]]))).scalars()
    assert one["log2_median"] == one["log2_p99"] == -2
    view = SiteView(site=Site("a", Role.INPUT, "linear"), module=None)
    assert Histogram().observe(view) is None
