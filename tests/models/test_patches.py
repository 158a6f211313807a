import pytest
import torch

from qprobe.errors import InputError
from qprobe.models import build
from qprobe.models.patches import default_patch


@pytest.mark.parametrize(
    ("image", "grid", "patch"),
    [(256, 16, 16), (128, 16, 8), (64, 16, 4), (512, 16, 32), (224, 16, 8), (64, 8, 8), (16, 8, 2)],
)
def test_default_patch(image, grid, patch):
    assert default_patch((image, image), grid) == patch


def test_default_patch_of_oblong_images_follows_the_shorter_side():
    assert default_patch((64, 128), 16) == 4


@pytest.mark.parametrize("image", [(250, 250), (17, 17), (16, 16), (64, 65)])
def test_no_suitable_patch_is_refused_with_a_way_out(image):
    with pytest.raises(InputError, match=f"no patch suits an image of {image[0]}x{image[1]}"):
        default_patch(image, 16)


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (6, "power of two"),
        (0, "whole number >= 1"),
        (4.0, "whole number >= 1"),
        (32, "cannot be cut into patches of 32"),
    ],
)
def test_patches_that_do_not_fit_are_refused(patch, said):
    with pytest.raises(InputError, match=said):
        build("vit", "tiny", image=48, patch=patch)


def test_decoder_has_one_stage_per_doubling():
    for patch in (1, 2, 4, 8, 16):
        model = build("vit", "tiny", image=16, patch=patch).eval()
        assert len(model.decoder.stages) == patch.bit_length() - 1
        assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 1, 16, 16)


def test_tokens_are_the_patches_row_by_row():
    """A constant kernel sums its patch; the norm is set aside to read the sums."""
    model = build("vit", "tiny", image=(16, 32), patch=8)
    embedding = model.patch_embed
    embedding.norm = torch.nn.Identity()
    torch.nn.init.ones_(embedding.conv.weight)
    torch.nn.init.zeros_(embedding.conv.bias)
    x = torch.zeros(1, 3, 16, 32)
    x[0, :, 8:, 8:16] = 1.0
    assert embedding(x)[0, :, 0].tolist() == [0, 0, 0, 0, 0, 192, 0, 0]
