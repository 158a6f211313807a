import pytest
import torch
from torch import nn

from qprobe.errors import InputError
from qprobe.quant.ptq import input_amax


def test_the_largest_over_all_batches_and_positions():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 1, 1))
    batches = [torch.randn(2, 2, 3, 3), torch.randn(2, 2, 5, 5)]
    found = input_amax(model, ["0", "1"], lambda: [model(batch) for batch in batches])
    expected = torch.stack([batch.abs().amax((0, 2, 3)) for batch in batches]).amax(0)
    assert torch.equal(found["0"], expected)
    assert found["1"].shape == (3,)
    assert not model[0]._forward_pre_hooks


def test_an_unbatched_image():
    model = nn.Sequential(nn.Conv2d(2, 3, 1))
    image = torch.randn(2, 4, 4)
    found = input_amax(model, ["0"], lambda: model(image))
    assert torch.equal(found["0"], image.abs().amax((1, 2)))


def test_a_layer_that_is_not_called_is_named():
    with pytest.raises(InputError, match="0 was not called on the calibration batches"):
        input_amax(nn.Sequential(nn.Linear(2, 2)), ["0"], lambda: None)
