from pathlib import Path

import numpy as np
import pytest
import torch

from qprobe.engine.data.lgg import LggConfig, lgg
from qprobe.errors import InputError, MissingExtraError

tifffile = pytest.importorskip("tifffile")

FIRST, SECOND = "TCGA_CS_4941_19960909", "TCGA_DU_5849_19950405"


def image(patient: int, number: int) -> np.ndarray:
    return np.random.default_rng([patient, number]).integers(0, 256, (8, 10, 3), dtype=np.uint8)


def mask(number: int) -> np.ndarray:
    drawn = np.zeros((8, 10), np.uint8)
    drawn[:number, 2] = 255
    return drawn


@pytest.fixture
def root(tmp_path) -> Path:
    """Two patients with three and two slices, beside the files that come with the release."""
    folder = tmp_path / "kaggle_3m"
    for patient, (name, slices) in enumerate(((FIRST, (1, 2, 10)), (SECOND, (1, 2)))):
        (folder / name).mkdir(parents=True)
        for number in slices:
            stem = folder / name / f"{name}_{number}"
            tifffile.imwrite(f"{stem}.tif", image(patient, number))
            tifffile.imwrite(f"{stem}_mask.tif", mask(number % 8))
    (folder / "data.csv").write_text("Patient,RNASeqCluster\n")
    (folder / ".DS_Store").write_bytes(b"\0")
    return folder


def test_slices_of_all_patients_in_the_order_of_their_numbers(root):
    data = lgg(LggConfig(root=root))
    assert data.patients == (FIRST,) * 3 + (SECOND,) * 2
    assert [data[i].sample for i in range(3)] == [f"{FIRST}_{n}" for n in (1, 2, 10)]
    assert (data.name, data.channels, data.classes, len(data)) == ("lgg", 3, 2, 5)


def test_pixels_and_labels_are_those_of_the_files(root):
    sample = lgg(LggConfig(root=root))[4]
    assert torch.equal(sample.image, torch.from_numpy(image(1, 2)).permute(2, 0, 1) / 255)
    assert torch.equal(sample.mask, torch.from_numpy(mask(2)) // 255)


def test_one_channel_is_flair(root):
    sample = lgg(LggConfig(root=root, channels=1))[0]
    assert torch.equal(sample.image[0], torch.from_numpy(image(0, 1)[..., 1]) / 255)


def test_the_folder_above_and_reading_late_give_the_same(root):
    whole, late = lgg(LggConfig(root=root)), lgg(LggConfig(root=root.parent, in_memory=False))
    assert late.patients == whole.patients
    assert torch.equal(late[3].image, whole[3].image)


def test_slices_are_resized(root):
    sample = lgg(LggConfig(root=root, image=4))[0]
    assert sample.image.shape == (3, 4, 4)
    assert sample.mask.shape == (4, 4)


def wrong_value(folder: Path) -> None:
    values = mask(1)
    values[0, 0] = 7
    tifffile.imwrite(folder / f"{FIRST}_1_mask.tif", values)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / f"{FIRST}_2.tif").unlink(), f"{FIRST}_2_mask.tif has no image"),
        (lambda f: (f / f"{FIRST}_2_mask.tif").unlink(), f"{FIRST}_2.tif has no mask"),
        (lambda f: (f / f"{FIRST}_2.tif").write_bytes(b"junk"), f"{FIRST}_2.tif could not be read"),
        (lambda f: (f / f"{FIRST}_2_mask.tif").write_bytes(b""), "2_mask.tif could not be read"),
        (
            lambda f: tifffile.imwrite(f / f"{FIRST}_1_mask.tif", mask(1)[:5]),
            rf"_1_mask.tif has the shape \(5, 10\) and its image {FIRST}_1.tif has \(8, 10\)",
        ),
        (
            lambda f: tifffile.imwrite(f / f"{FIRST}_1.tif", image(0, 1)[..., 0]),
            rf"{FIRST}_1.tif is uint8 of shape \(8, 10\); a slice is uint8 \[H, W, 3\]",
        ),
        (
            lambda f: tifffile.imwrite(
                f / f"{FIRST}_1.tif", image(0, 1).astype(np.uint16), photometric="rgb"
            ),
            f"{FIRST}_1.tif is uint16",
        ),
        (wrong_value, f"{FIRST}_1_mask.tif is a mask with the value 7"),
        (lambda f: (f / "notes.txt").write_text("x"), "notes.txt is neither a slice"),
        (lambda f: (f.parent / "TCGA_new").mkdir(), "TCGA_new holds no slices"),
        (lambda f: (f.parent / "other").mkdir(), "other is not a patient's folder"),
    ],
)
def test_whatever_is_wrong_is_said_with_the_name_of_the_file(root, spoil, message):
    spoil(root / FIRST)
    with pytest.raises(InputError, match=message):
        lgg(LggConfig(root=root))


def test_a_folder_without_patients_or_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path} holds no patient's folder"):
        lgg(LggConfig(root=tmp_path))
    with pytest.raises(InputError, match=r"there is no folder .*absent"):
        lgg(LggConfig(root=tmp_path / "absent"))


def test_without_the_reader_the_extra_is_named(root, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(MissingExtraError, match=r"needs tifffile.*pip install 'qprobe\[medical\]'"):
        lgg(LggConfig(root=root))


@pytest.mark.parametrize("options", [{"channels": 2}, {"image": 0}])
def test_impossible_settings_are_refused(tmp_path, options):
    with pytest.raises(InputError, match=str(next(iter(options.values())))):
        LggConfig(root=tmp_path, **options)
