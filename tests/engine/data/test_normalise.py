import pytest
import torch

from qprobe.engine.data.normalise import Normalisation, normalise
from qprobe.errors import InputError


def test_imagenets_mean_becomes_nought_and_one_deviation_becomes_one():
    image = torch.tensor([0.485, 0.456 + 0.224, 0.406 - 0.225]).view(1, 3, 1, 1)
    out = normalise(image, Normalisation.IMAGENET)
    torch.testing.assert_close(out.flatten(), torch.tensor([0.0, 1.0, -1.0]))


def test_imagenet_is_for_three_channels():
    with pytest.raises(InputError, match="3 channels and the images have 1"):
        normalise(torch.zeros(1, 1, 2, 2), Normalisation.IMAGENET)


def test_each_channel_of_each_sample_has_mean_nought_and_deviation_one():
    """[1, 3]: mean 2, deviation 1 (divisor n); [10, 30] likewise 20 and 10."""
    image = torch.tensor([[[1.0, 3.0], [10.0, 30.0]], [[5.0, 5.0], [0.0, 4.0]]])[..., None]
    out = normalise(image, Normalisation.PER_SAMPLE)[..., 0]
    assert out.tolist() == [[[-1, 1], [-1, 1]], [[0, 0], [-1, 1]]]


def test_a_large_offset_is_taken_off():
    image = 1e4 + torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    out = normalise(image, Normalisation.PER_SAMPLE)
    assert abs(out.mean().item()) < 1e-3
    assert out.std(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_a_sample_has_the_same_bits_alone_and_in_a_batch():
    image = torch.rand(5, 2, 37, 41, generator=torch.Generator().manual_seed(0))
    whole = normalise(image, Normalisation.PER_SAMPLE)
    for i in range(5):
        assert torch.equal(normalise(image[i : i + 1], Normalisation.PER_SAMPLE)[0], whole[i])


def test_none_leaves_the_image():
    image = torch.rand(1, 1, 2, 2)
    assert normalise(image, Normalisation.NONE) is image
