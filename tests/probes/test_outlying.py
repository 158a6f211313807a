"""What is out of line, against sizes by hand, in linear layers and convolutions."""

import pytest
import torch
from torch import nn

from qprobe.probes.outlying import outlying_channels, outlying_tokens
from qprobe.quant.ptq.channels import Channels


def even(*shape):
    """Every channel and token of the same size, with both signs."""
    return torch.ones(shape) * torch.tensor([1.0, -1.0]).repeat(shape[-1])[: shape[-1]]


def of(layer):
    return Channels.of(layer, "layer")


@pytest.mark.parametrize(("size", "found"), [(6.9, [3]), (7.1, [3, 9])])
def test_a_channel_of_an_input_is_out_of_line_from_seven_times_the_median(size, found):
    conv = nn.Conv2d(16, 4, 3)
    x = even(2, 16, 6, 6)
    x[:, 3] *= 20.0
    x[:, 9] *= size
    outlying = outlying_channels(x, torch.ones(4, 16, 3, 3), of(conv))
    assert outlying.nonzero().flatten().tolist() == found


@pytest.mark.parametrize(("size", "found"), [(3.9, [5]), (4.1, [1, 5])])
def test_weights_of_an_input_are_out_of_line_from_four_times_the_median(size, found):
    w = torch.ones(3, 8)
    w[2, 5], w[0, 1] = 9.0, size
    outlying = outlying_channels(even(4, 8), w, of(nn.Linear(8, 3)))
    assert outlying.nonzero().flatten().tolist() == found


def test_a_channel_that_is_large_and_constant_is_in_line():
    x = even(2, 5, 8).transpose(1, 2).contiguous()  # tokens vary, channels are alike
    x[..., 2] = 50.0
    x[..., 3] *= 2.0
    outlying = outlying_channels(x, torch.ones(3, 5), of(nn.Linear(5, 3)))
    assert outlying.nonzero().flatten().tolist() == [3]


def test_the_largest_is_chosen_where_all_are_in_line():
    x = even(2, 7, 6)
    x[0, 4] *= 1.5
    assert outlying_tokens(x, 0).nonzero()[:, :2].tolist() == [[0, 4]]


@pytest.mark.parametrize(("size", "found"), [(7.9, 1), (8.1, 2)])
def test_a_voxel_is_out_of_line_from_eight_times_the_median_whatever_its_channels(size, found):
    x = even(2, 4, 5, 6)
    x[0, :, 1, 2] *= 30.0
    x[1, 2, 3, 4] *= (4.0 * size**2 - 3.0) ** 0.5  # one of four channels: the root mean square
    outlying = outlying_tokens(x, 2)
    assert outlying.shape == (2, 1, 5, 6)
    assert int(outlying.sum()) == found


def test_zeros_are_no_outliers_of_each_other():
    x = torch.zeros(3, 4)
    assert outlying_tokens(x, 0).all()
    assert outlying_channels(x, torch.zeros(2, 4), of(nn.Linear(4, 2))).all()
