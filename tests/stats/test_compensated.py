import math

import numpy as np
import pytest
import torch

from qprobe.stats import compensated


def parts():
    """Numbers whose float64 sum depends on the order: large ones that cancel, small that stay."""
    source = np.random.default_rng(7)
    large = source.uniform(-1, 1, 100) * 2.0 ** source.integers(0, 30, 100)
    small = source.uniform(-1, 1, 200)
    values = np.concatenate([large, small, -large])
    return source.permutation(values).tolist()


def merged(values):
    sums = compensated.start(torch.tensor(0.0))
    for value in values:
        sums = compensated.add(sums, compensated.start(torch.tensor(value, dtype=torch.float64)))
    return compensated.total(sums).item()


def test_the_sum_is_the_correctly_rounded_one_in_any_order():
    values = parts()
    exact = math.fsum(values)
    assert merged(values) == exact
    assert sum(values) != exact  # a plain sum is not, so this test can fail
    for seed in range(5):
        np.random.default_rng(seed).shuffle(values)
        assert merged(values) == exact


def test_grouping_does_not_show():
    values = [compensated.start(torch.tensor(v, dtype=torch.float64)) for v in parts()]
    while len(values) > 1:
        values = [
            compensated.add(*values[i : i + 2]) if i + 1 < len(values) else values[i]
            for i in range(0, len(values), 2)
        ]
    assert compensated.total(values[0]).item() == math.fsum(parts())


@pytest.mark.parametrize(
    ("one", "two", "sum_"),
    [(math.inf, 1.0, math.inf), (-math.inf, -math.inf, -math.inf), (1e308, 1e308, math.inf)],
)
def test_an_infinite_sum_stays_infinite(one, two, sum_):
    assert merged([one, two, 5.0]) == sum_


@pytest.mark.parametrize("values", [[math.nan, 1.0], [math.inf, -math.inf]])
def test_what_has_no_sum_is_nan(values):
    assert math.isnan(merged(values))
