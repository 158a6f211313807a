import math

import pytest
import torch
import torch.nn.functional as F

from qprobe.engine.data.augment import AugmentConfig, Change, apply, draw
from qprobe.errors import InputError


def pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """An image and a mask of the same shape: image [B, 2, ...], mask [B, ...]."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((shape[0], 2, *shape[1:]), generator=generator)
    mask = torch.randint(0, 5, shape, generator=generator, dtype=torch.uint8)
    return image, mask


def test_no_change_returns_the_same_bits():
    image, mask = pair(3, 9, 7)
    out, out_mask = apply(image, mask, [Change()] * 3)
    assert torch.equal(out, image)
    assert torch.equal(out_mask, mask)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_reverses_its_axis_of_image_and_mask_exactly(axis):
    image, mask = pair(2, 4, 5, 6)
    flip = tuple(i == axis for i in range(3))
    out, out_mask = apply(image, mask, [Change(flip=flip), Change()])
    assert torch.equal(out[0], image[0].flip(-1 - axis))
    assert torch.equal(out_mask[0], mask[0].flip(-1 - axis))
    assert torch.equal(out[1], image[1])
    assert torch.equal(out_mask[1], mask[1])


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("size", [8, 9])
def test_quarter_turns_are_exact(quarters, size):
    image, mask = pair(1, size, size)
    out, out_mask = apply(image, mask, [Change(radians=quarters * math.pi / 2)])
    torch.testing.assert_close(out, image.rot90(quarters, (-2, -1)), atol=1e-5, rtol=0)
    assert torch.equal(out_mask, mask.rot90(quarters, (-2, -1)))


def test_half_a_turn_is_exact_where_height_and_width_differ():
    image, mask = pair(1, 6, 10)
    out, out_mask = apply(image, mask, [Change(radians=math.pi)])
    torch.testing.assert_close(out, image.flip(-1, -2), atol=1e-5, rtol=0)
    assert torch.equal(out_mask, mask.flip(-1, -2))


def test_a_shift_of_whole_pixels_moves_the_content_right_and_down():
    image, mask = pair(1, 8, 16)
    out, out_mask = apply(image, mask, [Change(shift=(3 / 16, 2 / 8))])
    torch.testing.assert_close(out[..., 2:, 3:], image[..., :-2, :-3], atol=1e-5, rtol=0)
    assert torch.equal(out_mask[..., 2:, 3:], mask[..., :-2, :-3])


def test_twice_the_scale_repeats_the_middle():
    image, mask = pair(1, 8, 8)
    _, out_mask = apply(image, mask, [Change(scale=2.0)])
    assert torch.equal(out_mask, mask[:, 2:6, 2:6].repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_a_turn_of_a_wide_image_keeps_distances():
    """A dot 4 pixels right of the centre is 4 pixels above it after a quarter turn."""
    image = torch.zeros(1, 1, 11, 21)
    image[0, 0, 5, 14] = 1
    out, out_mask = apply(image, image[:, 0].byte(), [Change(radians=math.pi / 2)])
    assert out[0, 0, 1, 10].item() == pytest.approx(1, abs=1e-4)
    assert out_mask.nonzero().tolist() == [[0, 1, 10]]


def test_the_mask_stays_on_the_image_under_any_move():
    """A blob that is its own label: a label drawn from the moved image is the moved label."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    blob = (14 - ((x - 25) ** 2 + (y - 38) ** 2).sqrt())[None, None]
    generator = torch.Generator().manual_seed(1)
    config = AugmentConfig(move=1, tone=0, rotate_degrees=180)
    for _ in range(20):
        out, mask = apply(blob, (blob[:, 0] > 0).byte(), [draw(config, generator)])
        seen = out[:, 0] > 0
        both, either = (seen & (mask == 1)).sum(), (seen | (mask == 1)).sum()
        assert both / either > 0.93


def test_moves_match_an_affine_grid_made_by_torch():
    image, mask = pair(1, 12, 12)
    angle, scale, right, down = 0.4, 1.2, 0.1, -0.05
    c, s = math.cos(angle) / scale, math.sin(angle) / scale
    tx, ty = 2 * right, 2 * down
    theta = torch.tensor([[[c, -s, -c * tx + s * ty], [s, c, -s * tx - c * ty]]])
    grid = F.affine_grid(theta, [1, 2, 12, 12], align_corners=False)
    expected = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
    change = Change(radians=angle, scale=scale, shift=(right, down))
    out, _ = apply(image, mask, [change])
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_slices_of_a_volume_move_alike():
    image, mask = pair(1, 3, 8, 8)
    change = Change(radians=0.3, shift=(0.1, 0.0))
    out, out_mask = apply(image, mask, [change])
    for z in range(3):
        flat, flat_mask = apply(image[:, :, z], mask[:, z], [change])
        assert torch.equal(out[:, :, z], flat)
        assert torch.equal(out_mask[:, z], flat_mask)


def test_contrast_and_brightness_by_hand():
    """Range [1, 3]: middle 2. Contrast 1.5 makes [0.5, 3.5], brightness 0.25 adds 0.25 · 2."""
    image = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    out, mask = apply(image, torch.ones(1, 1, 3).byte(), [Change(contrast=1.5, brightness=0.25)])
    assert out.flatten().tolist() == [1.0, 2.5, 4.0]
    assert mask.flatten().tolist() == [1, 1, 1]


def test_a_constant_image_stays_constant():
    image, mask = torch.full((1, 1, 5, 5), 0.3), torch.zeros(1, 5, 5).byte()
    out, _ = apply(image, mask, [Change(contrast=1.2, brightness=0.2, radians=0.3)])
    torch.testing.assert_close(out, image)


@pytest.mark.parametrize("shape", [(16, 33, 47), (6, 5, 17, 19)])
def test_a_sample_has_the_same_bits_alone_and_in_any_batch(shape):
    image, mask = pair(*shape)
    config = AugmentConfig(rotate_degrees=90)
    changes = [draw(config, torch.Generator().manual_seed(i)) for i in range(shape[0])]
    out, out_mask = apply(image, mask, changes)
    assert any(change.moves for change in changes)
    assert any(not change.moves for change in changes)
    for i in range(shape[0]):
        alone, alone_mask = apply(image[i : i + 1], mask[i : i + 1], changes[i : i + 1])
        assert torch.equal(alone[0], out[i])
        assert torch.equal(alone_mask[0], out_mask[i])


def test_the_arguments_are_left_as_they_were():
    image, mask = pair(4, 8, 8)
    before, before_mask = image.clone(), mask.clone()
    apply(image, mask, [Change(radians=0.3, contrast=1.2, flip=(True, True, False))] * 4)
    assert torch.equal(image, before)
    assert torch.equal(mask, before_mask)


def test_draws_keep_the_probabilities_and_the_limits():
    config = AugmentConfig(flip=0.25, move=0.5, tone=0.75)
    generator = torch.Generator().manual_seed(0)
    n = 4000
    changes = [draw(config, generator) for _ in range(n)]
    for share, probability in (
        (sum(c.flip[0] for c in changes) / n, 0.25),
        (sum(c.moves for c in changes) / n, 0.5),
        (sum(c.tones for c in changes) / n, 0.75),
    ):
        assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / n)
    assert 0.99 * 0.0625 < max(abs(c.shift[0]) for c in changes) <= 0.0625
    assert 1.099 < max(c.scale for c in changes) <= 1.1
    assert 0.9 <= min(c.scale for c in changes) < 0.901
    assert 14.8 < max(math.degrees(abs(c.radians)) for c in changes) <= 15
    assert 1.19 < max(c.contrast for c in changes) <= 1.2


def test_probability_nought_never_changes_and_one_always_does():
    generator = torch.Generator().manual_seed(0)
    never = AugmentConfig(flip=0, move=0, tone=0)
    assert all(draw(never, generator) == Change() for _ in range(100))
    always = AugmentConfig(flip=1, move=1, tone=1)
    for change in (draw(always, generator) for _ in range(100)):
        assert all(change.flip)
        assert change.moves
        assert change.tones


def test_every_draw_takes_as_many_numbers_whatever_the_config():
    first, second = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    draw(AugmentConfig(flip=0, move=0, tone=0), first)
    draw(AugmentConfig(), second)
    assert torch.equal(first.get_state(), second.get_state())


@pytest.mark.parametrize(
    "options", [{"flip": 1.1}, {"move": -0.1}, {"tone": math.nan}, {"scale": 1.0}, {"shift": -1.0}]
)
def test_impossible_settings_are_refused_by_name(options):
    with pytest.raises(InputError, match=next(iter(options))):
        AugmentConfig(**options)


def test_one_change_per_sample_is_required():
    image, mask = pair(2, 4, 4)
    with pytest.raises(InputError, match="1 changes were given for 2 images"):
        apply(image, mask, [Change()])
