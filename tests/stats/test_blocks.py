import math

import numpy as np
import pytest
import torch

from qprobe.errors import InputError
from qprobe.stats import block_ranges


def test_ranges_are_numpys(generator):
    x = (torch.randn(300, 16, generator=generator) * 4).exp()
    state = block_ranges(x, x)
    wide = x.double().numpy()
    octaves = np.log2(wide.max(1) / wide.min(1))
    found = {key: value.item() for key, value in state.scalars().items()}
    assert found["octaves_mean"] == pytest.approx(octaves.mean(), rel=1e-12)
    for key, q in (("median", 0.5), ("p90", 0.9), ("max", 1.0)):
        expected = np.quantile(octaves, q, method="inverted_cdf")
        assert found[f"octaves_{key}"] == math.floor(4 * expected) / 4
    edges = np.arange(257) / 4
    edges[-1] = np.inf
    assert state.histogram.tolist() == np.histogram(octaves, edges)[0].tolist()


def test_lost_is_a_share_of_what_held_something():
    x = torch.tensor([[1.0, 2.0], [1e-9, -1e-9], [0.0, 0.0], [0.0, 3.0]])
    y = torch.tensor([[1.0, 2.0], [0.0, -0.0], [0.0, 0.0], [0.0, 3.0]])
    found = block_ranges(x, y).scalars()
    assert found["rounded_to_zero"].item() == pytest.approx(1 / 3)
    assert found["zero"].item() == 0.25
    assert found["n"] == 4


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_blocks_that_are_not_finite_are_counted_and_left_out(bad):
    x = torch.tensor([[bad, 1.0], [4.0, 1.0]])
    found = block_ranges(x, torch.zeros(2, 2)).scalars()
    assert found["nonfinite"].item() == 0.5
    assert found["octaves_mean"].item() == 2.0
    assert found["rounded_to_zero"].item() == 1.0
    assert found["zero"].item() == 0.0


def test_zero_blocks_have_no_range_and_no_blocks_have_nothing():
    assert set(block_ranges(torch.zeros(2, 4), torch.zeros(2, 4)).scalars()) == {
        *("n", "zero", "nonfinite"),
    }
    assert set(block_ranges(torch.zeros(0, 4), torch.zeros(0, 4)).scalars()) == {"n"}


def test_what_lies_beyond_the_histogram_is_in_its_last_bin():
    x = torch.tensor([[1e30, 1e-30]])
    state = block_ranges(x, x)
    assert state.histogram[-1] == 1
    assert state.scalars()["octaves_mean"].item() == pytest.approx(60 * math.log2(10), rel=1e-6)


def test_blocks_of_two_shapes_are_refused():
    with pytest.raises(InputError, match="blocks and what they became"):
        block_ranges(torch.zeros(2, 4), torch.zeros(2, 5))
