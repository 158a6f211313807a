import numpy as np
import pytest

from qprobe.engine.data.brain import Difficulty, draw, grid

PIXELS = grid(64, 6)
SHOWN = Difficulty(contrast=(0.35, 0.35), jitter=0.06)
HIDDEN = Difficulty(contrast=(0.0, 0.0), jitter=0.06)
STEADY = Difficulty(contrast=(0.35, 0.35), jitter=0.0)


def patients(difficulty: Difficulty) -> tuple[np.ndarray, np.ndarray]:
    drawn = [draw(np.random.SeedSequence([7, i]), PIXELS, difficulty) for i in range(12)]
    return tuple(np.stack(part).astype(float) for part in zip(*drawn, strict=True))


def test_contrast_brightens_lesions_on_flair_and_darkens_them_on_t1():
    """The same patients with the contrast turned off are the control: only contrast differs."""
    images, masks = patients(SHOWN)
    without, same_masks = patients(HIDDEN)
    assert np.array_equal(masks, same_masks)
    t1, flair, after = np.moveaxis((images - without) / 255, 2, 0)
    assert 0.08 < flair[masks == 1].mean() < 0.35
    assert -0.15 < t1[masks == 1].mean() < -0.01
    assert -0.15 < after[masks == 1].mean() < -0.005
    assert abs(flair[masks == 0].mean()) < 0.01


def test_look_alikes_are_bright_where_the_label_is_empty():
    images, masks = patients(SHOWN)
    without, _ = patients(HIDDEN)
    flair = (images - without)[:, :, 1] / 255
    bright = flair > 0.08
    assert 0.3 < (bright & (masks == 0)).sum() / bright.sum() < 0.9


def test_jitter_moves_the_outline_of_the_label_and_not_the_image():
    images, masks = patients(SHOWN)
    same, steady = patients(STEADY)
    assert np.array_equal(images, same)
    overlap = 2 * (masks * steady).sum() / (masks.sum() + steady.sum())
    assert 0.85 < overlap < 0.99


@pytest.mark.parametrize("image", [32, 64, 128])
def test_the_head_fills_the_image_at_every_size(image):
    images, _ = draw(np.random.SeedSequence(0), grid(image, 3), SHOWN)
    head = images[1, 0] > 30
    assert 0.3 < head.mean() < 0.7
    assert max(edge.mean() for edge in (head[0], head[-1], head[:, 0], head[:, -1])) < 0.1


def test_one_slice_is_possible():
    images, masks = draw(np.random.SeedSequence(0), grid(32, 1), SHOWN)
    assert images.shape == (1, 3, 32, 32)
    assert masks.shape == (1, 32, 32)
