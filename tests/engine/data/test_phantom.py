from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from qprobe.engine.data import phantom as module
from qprobe.engine.data.dataset import Dataset
from qprobe.engine.data.phantom import PhantomConfig, Setting, patient, phantom
from qprobe.errors import InputError

SMALL = PhantomConfig(patients=24)


@pytest.fixture(scope="module")
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    images, masks = zip(*(patient(SMALL, number) for number in range(24)), strict=True)
    return torch.stack(images), torch.stack(masks)


def test_shapes_names_and_values(tmp_path):
    data = phantom(PhantomConfig(patients=3, slices=4, image=32, cache=tmp_path))
    assert isinstance(data, Dataset)
    assert (data.name, data.channels, data.classes, len(data)) == ("phantom-easy", 3, 2, 12)
    assert data.patients == tuple(f"p{i // 4:04d}" for i in range(12))
    sample = data[5]
    assert (sample.patient, sample.sample) == ("p0001", "p0001/s01")
    assert sample.image.shape == (3, 32, 32)
    assert sample.mask.shape == (32, 32)
    assert 0 <= sample.image.min() < 0.1 < 0.5 < sample.image.max() <= 1
    assert torch.equal(sample.image * 255, (sample.image * 255).round())


def test_a_patient_does_not_depend_on_the_others_or_on_the_order(tmp_path):
    few = phantom(PhantomConfig(patients=2, slices=5, image=32, cache=tmp_path))
    many = phantom(PhantomConfig(patients=4, slices=5, image=32, cache=tmp_path))
    for index in range(10):
        assert torch.equal(few[index].image, many[index].image)
        assert torch.equal(few[index].mask, many[index].mask)


def test_threads_draw_what_one_draws():
    config = PhantomConfig(image=32)
    alone = [patient(config, number) for number in range(6)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda number: patient(config, number), reversed(range(6))))
    for (image, mask), (other, other_mask) in zip(alone, reversed(together), strict=True):
        assert torch.equal(image, other)
        assert torch.equal(mask, other_mask)


def test_seed_setting_and_patient_each_change_the_image():
    first = patient(PhantomConfig(image=32), 0)[0]
    others = [
        patient(PhantomConfig(image=32), 1),
        patient(PhantomConfig(image=32, seed=1), 0),
        patient(PhantomConfig(image=32, setting=Setting.HARD), 0),
    ]
    assert all(not torch.equal(first, image) for image, _ in others)


def test_one_channel_is_the_flair_of_three(tmp_path):
    three = phantom(PhantomConfig(patients=1, slices=2, image=32, cache=tmp_path))
    one = phantom(PhantomConfig(patients=1, slices=2, image=32, channels=1, cache=tmp_path))
    assert torch.equal(one[1].image, three[1].image[1:2])
    assert len(list(tmp_path.iterdir())) == 1


def test_the_second_time_nothing_is_generated(tmp_path, monkeypatch):
    config = PhantomConfig(patients=1, slices=2, image=32, cache=tmp_path)
    first = phantom(config)
    monkeypatch.setattr(module, "patient", None)
    assert torch.equal(phantom(config)[1].image, first[1].image)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"patients": 2}, {"slices": 3}, {"image": 48}, {"setting": Setting.HARD}],
)
def test_everything_that_matters_is_in_the_file_name(tmp_path, change):
    base = {"patients": 1, "slices": 2, "image": 32, "cache": tmp_path}
    phantom(PhantomConfig(**base))
    phantom(PhantomConfig(**{**base, **change}))
    assert len(list(tmp_path.iterdir())) == 2


def test_about_a_third_of_the_slices_and_a_hundredth_of_the_pixels_are_lesion(drawn):
    _, masks = drawn
    assert 0.25 < masks.amax((2, 3)).float().mean() < 0.50
    assert 0.004 < masks.float().mean() < 0.025
    assert masks.amax((1, 2, 3)).float().mean() > 0.7


def test_brightness_alone_does_not_find_the_lesions(drawn):
    """Scalp and look-alikes are as bright: the brightest pixels are mostly not lesion."""
    images, masks = drawn
    flair = images[:, :, 1].flatten().float()
    brightest = flair.topk(int(masks.sum())).indices
    assert masks.flatten()[brightest].float().mean() < 0.3


def test_lesions_are_inside_the_head(drawn):
    images, masks = drawn
    assert images[:, :, 0][masks == 1].float().mean() > 50
    border = torch.ones(64, 64, dtype=torch.bool)
    border[8:-8, 8:-8] = False
    assert not masks[:, :, border].any()


def test_neighbouring_slices_are_of_one_head(drawn):
    images, _ = drawn
    t1 = images[:, :, 0].float()
    within = (t1[:, 5] - t1[:, 6]).abs().mean()
    between = (t1[:-1, 5] - t1[1:, 5]).abs().mean()
    assert within < 0.7 * between


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": 8}, "8 pixels is too small"),
        ({"channels": 2}, "1 or 3 channels, not 2"),
        ({"patients": 0}, "at least one of patients"),
        ({"slices": 0}, "at least one of slices"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        PhantomConfig(**options)
