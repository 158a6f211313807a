import pytest
import torch
from torch import nn

from qprobe.probes.axis import channel_axis
from qprobe.records.schema import Role
from qprobe.sites import Site, discover


@pytest.mark.parametrize(
    ("module", "shape", "size"),
    [
        (nn.Conv1d(3, 5, 2), (2, 3, 7), 3),
        (nn.Conv2d(3, 5, 2), (2, 3, 7, 7), 3),
        (nn.Conv2d(3, 5, 2), (3, 7, 7), 3),
        (nn.Conv3d(3, 5, 2), (2, 3, 7, 7, 7), 3),
        (nn.ConvTranspose2d(3, 5, 2), (2, 3, 7, 7), 3),
        (nn.Linear(3, 5), (2, 7, 7, 3), 3),
        (nn.BatchNorm2d(3), (2, 3, 7, 7), 3),
        (nn.BatchNorm1d(3), (2, 3), 3),
        (nn.GroupNorm(1, 3), (2, 3, 7), 3),
        (nn.LayerNorm(3), (2, 7, 7, 3), 3),
    ],
)
def test_channels_of_inputs_and_weights(module, shape, size):
    (kind,) = {site.kind for site in discover(module)}
    module(torch.randn(shape))
    assert shape[channel_axis(Site("", Role.INPUT, kind), module, len(shape))] == size
    weight = module.weight
    assert weight.shape[channel_axis(Site("", Role.WEIGHT, kind), module, weight.dim())] == size


def test_channels_between_modules():
    branch = Site("cat.0", Role.BRANCH, "cat")
    assert channel_axis(branch, None, 4) == -3
    assert channel_axis(branch, None, 3) == -1
