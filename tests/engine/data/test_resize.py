import numpy as np
import pytest
import torch

from qprobe.engine.data.resize import resize_image, resize_mask


def test_shrinking_averages_the_area():
    image = torch.arange(16.0).view(1, 4, 4)
    assert resize_image(image, (2, 2)).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]


def test_shrinking_a_volume_averages_the_area():
    image = torch.rand(2, 4, 6, 8)
    blocks = image.view(2, 2, 2, 3, 2, 4, 2).mean((2, 4, 6))
    torch.testing.assert_close(resize_image(image, (2, 3, 4)), blocks)


def test_growing_interpolates_between_pixel_centres():
    """Centres of the four new pixels lie at −1/4, 1/4, 3/4, 5/4 of the old spacing."""
    out = resize_image(torch.tensor([[[0.0, 4.0]]]), (1, 4))
    assert out.tolist() == [[[0.0, 1.0, 3.0, 4.0]]]


def test_one_axis_may_shrink_while_another_grows():
    image = torch.tensor([[[0.0, 4.0], [2.0, 6.0]]])
    assert resize_image(image, (1, 4)).tolist() == [[[1.0, 2.0, 4.0, 5.0]]]


@pytest.mark.parametrize("size", [3, 7, 20])
def test_a_mask_takes_the_class_at_each_centre(size):
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 9, (11, 6), dtype=np.uint8)
    rows = ((np.arange(size) + 0.5) * 11 / size).astype(int)
    columns = ((np.arange(size) + 0.5) * 6 / size).astype(int)
    out = resize_mask(torch.from_numpy(mask), (size, size))
    assert out.dtype == torch.uint8
    assert out.tolist() == mask[rows][:, columns].tolist()


def test_image_and_mask_stay_on_each_other():
    """A half-plane that is its own label keeps its edge through both ways of resizing."""
    half = (torch.arange(60) >= 36).float().expand(60, 60)
    image = resize_image(half[None], (20, 20))[0]
    assert torch.equal((image > 0.5).byte(), resize_mask(half.byte(), (20, 20)))


def test_the_same_size_changes_nothing():
    image, mask = torch.rand(3, 5, 7), torch.ones(5, 7, dtype=torch.uint8)
    assert torch.equal(resize_image(image, (5, 7)), image)
    assert resize_mask(mask, (5, 7)) is mask
