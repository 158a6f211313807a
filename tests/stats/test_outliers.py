import math

import pytest
import torch
from scipy import stats

from qprobe.errors import InputError
from qprobe.stats import outlier_pattern


def test_it_is_the_ratio_of_the_medians_of_logarithms():
    found = outlier_pattern(torch.tensor([2.0, 4.0, 64.0]), torch.tensor([16.0, 2.0, 16.0]))
    assert found.item() == pytest.approx(0.5)


def test_normal_numbers_have_ratio_one_and_two_kinds_of_outliers_fall_on_two_sides(generator):
    x = torch.randn(2000, 256, generator=generator)
    across, along = x.clone(), x.clone()
    across[:, 3] *= 30
    along[17] *= 30
    found = [
        outlier_pattern(
            *(torch.from_numpy(stats.kurtosis(t.numpy(), axis, fisher=False)) for axis in (0, 1))
        ).item()
        for t in (x, across, along)
    ]
    assert found[0] == pytest.approx(1.0, abs=0.03)
    assert found[1] < 0.5
    assert found[2] > 2.0


@pytest.mark.parametrize("channels", [3, 16])
def test_few_channels_move_it_as_far_as_is_said(channels, generator):
    x = torch.randn(20000, channels, generator=generator).numpy()
    of = (torch.from_numpy(stats.kurtosis(x, axis, fisher=False)) for axis in (0, 1))
    assert outlier_pattern(*of).item() == pytest.approx({3: 2.7, 16: 1.2}[channels], abs=0.05)


def test_without_numbers_or_with_flat_tokens_there_is_none():
    some = torch.tensor([3.0])
    assert math.isnan(outlier_pattern(some, torch.tensor([])))
    assert math.isnan(outlier_pattern(torch.tensor([]), some))
    assert math.isnan(outlier_pattern(some, torch.tensor([1.0, 1.0])))
    assert outlier_pattern(torch.tensor([1.0]), some).item() == 0.0


def test_a_matrix_is_refused():
    with pytest.raises(InputError, match=r"kurtosis of tokens .* \[2, 2\]"):
        outlier_pattern(torch.ones(2), torch.ones(2, 2))
