from pathlib import Path

import numpy as np
import pytest
import torch

from qprobe.engine.data.busi import BusiConfig, busi
from qprobe.errors import InputError, MissingExtraError

pillow = pytest.importorskip("PIL.Image")


def save(path: Path, pixels: np.ndarray) -> None:
    pillow.fromarray(pixels).save(path)


def grey(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def dot(shape: tuple[int, int], row: int) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[row, 1] = 255
    return mask


@pytest.fixture
def root(tmp_path) -> Path:
    """Images of different size, one with two masks, masks in three ways of saving them."""
    folder = tmp_path / "Dataset_BUSI_with_GT"
    for name in ("benign", "malignant", "normal"):
        (folder / name).mkdir(parents=True)
    benign, malignant, normal = (folder / name for name in ("benign", "malignant", "normal"))
    save(benign / "benign (1).png", np.repeat(grey(1, 6, 9, 1), 3, 2))
    save(benign / "benign (1)_mask.png", dot((6, 9), 0))
    save(benign / "benign (1)_mask_1.png", dot((6, 9), 3))
    save(benign / "benign (10).png", grey(2, 8, 7))
    save(benign / "benign (10)_mask.png", np.repeat(dot((8, 7), 2)[..., None], 3, 2))
    save(benign / "benign (2).png", grey(3, 5, 5, 4))
    save(benign / "benign (2)_mask.png", dot((5, 5), 4) > 0)
    save(malignant / "malignant (1).png", grey(4, 4, 4, 3))
    rgba = np.repeat(dot((4, 4), 1)[..., None], 4, 2)
    rgba[..., 3] = 255
    save(malignant / "malignant (1)_mask.png", rgba)
    save(normal / "normal (1).png", grey(5, 4, 4, 3))
    save(normal / "normal (1)_mask.png", np.zeros((4, 4), np.uint8))
    return folder


def test_images_in_the_order_of_their_numbers_each_its_own_patient(root):
    data = busi(BusiConfig(root=root.parent))
    names = ["benign (1)", "benign (2)", "benign (10)", "malignant (1)", "normal (1)"]
    assert list(data.patients) == [data[i].sample for i in range(5)] == names
    assert (data.name, data.channels, data.classes) == ("busi", 3, 2)
    assert all(data[i].image.shape == (3, 256, 256) for i in range(5))


def test_several_masks_are_merged_and_every_way_of_saving_one_is_read(root):
    data = busi(BusiConfig(root=root, image=None))
    marked = [data[i].mask.nonzero().tolist() for i in range(5)]
    assert marked == [[[0, 1], [3, 1]], [[4, 1]], [[2, 1]], [[1, 1]], []]


def test_pixels_are_those_of_the_files(root):
    colour = busi(BusiConfig(root=root, image=None))
    single = busi(BusiConfig(root=root, image=None, channels=1))
    expected = torch.from_numpy(grey(2, 8, 7)) / 255
    assert torch.equal(colour[2].image, expected.expand(3, 8, 7))
    assert torch.equal(single[2].image, expected[None])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "benign (2).png").unlink(), r"benign \(2\)_mask.png has no image"),
        (lambda f: (f / "benign (2)_mask.png").unlink(), r"benign \(2\).png has no mask"),
        (lambda f: (f / "benign (2).png").write_bytes(b"x"), r"benign \(2\).png could not be read"),
        (
            lambda f: (f / "benign (1)_mask_1.png").write_bytes(b"x"),
            "_mask_1.png could not be read",
        ),
        (
            lambda f: save(f / "benign (1)_mask_1.png", dot((6, 8), 0)),
            r"_mask_1.png has the shape \(6, 8\) and its image benign \(1\).png has \(6, 9\)",
        ),
        (
            lambda f: save(f / "benign (2)_mask.png", grey(0, 5, 5, 3)),
            r"benign \(2\)_mask.png is a mask in colours",
        ),
        (
            lambda f: save(f / "benign (2)_mask.png", dot((5, 5), 0) // 2),
            r"benign \(2\)_mask.png is a mask with the value 127",
        ),
        (lambda f: (f / "benign (3).jpg").write_bytes(b"x"), r"benign \(3\).jpg is neither"),
        (lambda f: (f.parent / "extra").mkdir(), "extra is not one of the folders benign"),
        (
            lambda f: save(f.parent / "normal" / "normal (1)_mask.png", dot((4, 4), 0)),
            r"normal \(1\)_mask.png marks a lesion in a normal image",
        ),
    ],
)
def test_whatever_is_wrong_is_said_with_the_name_of_the_file(root, spoil, message):
    spoil(root / "benign")
    with pytest.raises(InputError, match=message):
        busi(BusiConfig(root=root))


def test_empty_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds none of the folders benign"):
        busi(BusiConfig(root=tmp_path))
    (tmp_path / "benign").mkdir()
    with pytest.raises(InputError, match="benign holds no images"):
        busi(BusiConfig(root=tmp_path))


def test_without_the_reader_the_extra_is_named(root, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"needs PIL.*pip install 'qprobe\[medical\]'"):
        busi(BusiConfig(root=root))
