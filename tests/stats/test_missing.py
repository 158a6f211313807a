import math

import torch

from qprobe.stats.missing import decibels, known, known_heads, ratio


def test_a_ratio_without_denominator_is_nan_and_a_zero_ratio_is_zero():
    found = ratio(torch.tensor([0, 3, 0]), torch.tensor([0, 2, 2]))
    assert math.isnan(found[0])
    assert found[1:].tolist() == [1.5, 0.0]
    assert found.dtype is torch.float64


def test_nan_in_the_data_is_a_value():
    found = known({"x": (torch.tensor(math.nan), torch.tensor(True))})
    assert math.isnan(found["x"])


def test_only_heads_that_exist_have_a_key():
    exists = torch.tensor([False, True, True])
    found = known_heads("e", torch.tensor([9.0, 1.0, math.nan]), exists, [0, 1, 5])
    assert list(found) == ["head1.e", "head5.e"]
    assert math.isnan(found["head5.e"])


def test_decibels_of_nothing_over_nothing_are_nan():
    zero = torch.tensor(0.0)
    assert math.isnan(decibels(zero, zero))
