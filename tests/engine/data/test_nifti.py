import json
from pathlib import Path

import numpy as np
import pytest
import torch

from qprobe.engine.data.nifti import NiftiConfig, View, nifti
from qprobe.errors import InputError, MissingExtraError

nibabel = pytest.importorskip("nibabel")

SHAPE = (6, 5, 4)
FOLDERS = (("image", "imagesTr"), ("label", "labelsTr"))
AFFINE = np.diag([1.5, 1.5, 5.0, 1.0])


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)


def scan(seed: int, *channels: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, 300, (*SHAPE, *channels))
    return values.astype(np.float32)


def label(seed: int, classes: int = 3) -> np.ndarray:
    drawn = np.random.default_rng([9, seed]).integers(0, classes, SHAPE, dtype=np.uint8)
    drawn[0, 0, 0] = classes - 1
    return drawn


@pytest.fixture
def decathlon(tmp_path) -> Path:
    """Two cases of two modalities and three classes, with the files macOS leaves behind."""
    root = tmp_path / "Task05_Prostate"
    for number in (0, 1):
        save(root / "imagesTr" / f"prostate_{number:02d}.nii.gz", scan(number, 2))
        save(root / "labelsTr" / f"prostate_{number:02d}.nii.gz", label(number))
    (root / "imagesTr" / "._prostate_00.nii.gz").write_bytes(b"\0")
    (root / "imagesTs").mkdir()
    pairs = [
        {part: f"./{folder}/prostate_{n:02d}.nii.gz" for part, folder in FOLDERS} for n in (1, 0)
    ]
    facts = {
        "name": "PROSTATE",
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "PZ", "2": "TZ"},
        "training": pairs,
    }
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


@pytest.fixture
def btcv(tmp_path) -> Path:
    root = tmp_path / "RawData" / "Training"
    for number in (1, 2):
        save(root / "img" / f"img{number:04d}.nii.gz", scan(number))
        save(root / "label" / f"label{number:04d}.nii.gz", label(number, 14))
    return root


def test_decathlon_volumes(decathlon):
    data = nifti(NiftiConfig(root=decathlon))
    assert (data.name, data.channels, data.classes, len(data)) == ("prostate", 2, 3, 2)
    assert data.patients == ("prostate_00", "prostate_01")
    assert data[1].image.shape == (2, 4, 5, 6)
    assert torch.equal(data[1].image, torch.from_numpy(scan(1, 2).transpose(3, 2, 1, 0).copy()))
    assert torch.equal(data[1].mask, torch.from_numpy(label(1).transpose(2, 1, 0).copy()))


def test_btcv_volumes_from_the_folder_or_the_one_above(btcv):
    for root in (btcv, btcv.parent, btcv.parent.parent):
        data = nifti(NiftiConfig(root=root))
        assert (data.name, data.channels, data.classes) == ("btcv", 1, 14)
        assert data.patients == ("img0001", "img0002")
        assert torch.equal(data[0].image[0], torch.from_numpy(scan(1).T.copy()))


def test_slices_are_those_of_the_volumes(btcv):
    whole = nifti(NiftiConfig(root=btcv))
    for in_memory in (True, False):
        data = nifti(NiftiConfig(root=btcv, view=View.SLICE, in_memory=in_memory))
        assert data.patients == ("img0001",) * 4 + ("img0002",) * 4
        assert data[6].sample == "img0002/z0002"
        assert torch.equal(data[6].image, whole[1].image[:, 2])
        assert torch.equal(data[6].mask, whole[1].mask[2])


def test_a_mirrored_file_is_turned_to_the_common_orientation(btcv):
    """The same voxels stored from left to right, with an affine that says so."""
    mirrored = np.diag([-1.5, 1.5, 5.0, 1.0])
    plain = nifti(NiftiConfig(root=btcv))[0]
    save(btcv / "img" / "img0001.nii.gz", scan(1)[::-1], mirrored)
    save(btcv / "label" / "label0001.nii.gz", label(1, 14)[::-1], mirrored)
    turned = nifti(NiftiConfig(root=btcv))[0]
    assert torch.equal(turned.image, plain.image)
    assert torch.equal(turned.mask, plain.mask)


def test_binary_joins_the_classes(decathlon):
    data = nifti(NiftiConfig(root=decathlon, binary=True))
    assert data.classes == 2
    assert torch.equal(data[0].mask, torch.from_numpy((label(0) > 0).T.astype(np.uint8).copy()))


def test_volumes_are_resized(btcv):
    sample = nifti(NiftiConfig(root=btcv, image=8))[0]
    assert sample.image.shape == (1, 8, 8, 8)
    assert sample.mask.shape == (8, 8, 8)


def spoiled_label(value: float) -> np.ndarray:
    drawn = label(1, 14).astype(np.float32)
    drawn[0, 0, 0] = value
    return drawn


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "img/img0001.nii.gz").unlink(), "label0001.nii.gz has no image"),
        (lambda f: (f / "label/label0002.nii.gz").unlink(), "img0002.nii.gz has no label"),
        (
            lambda f: (f / "img/img0001.nii.gz").write_bytes(b"x"),
            "img0001.nii.gz could not be read",
        ),
        (lambda f: (f / "img/scan.nii.gz").write_bytes(b"x"), "scan.nii.gz is not called imgNNNN"),
        (lambda f: save(f / "img/img0001.nii", scan(1)), "img0001.nii.gz and img0001.nii are one"),
        (
            lambda f: save(f / "label/label0001.nii.gz", label(1)[:4]),
            r"label0001.nii.gz has the shape \(4, 5, 4\) and its image img0001.nii.gz has \(6",
        ),
        (
            lambda f: save(f / "label/label0001.nii.gz", spoiled_label(14)),
            "label0001.nii.gz holds the label 14 and the data have the classes 0 to 13",
        ),
        (lambda f: save(f / "label/label0001.nii.gz", spoiled_label(1.5)), "holds the label 1.5"),
        (lambda f: save(f / "label/label0001.nii.gz", spoiled_label(-1)), "holds the label -1"),
        (
            lambda f: save(f / "label/label0001.nii.gz", spoiled_label(np.nan)),
            "holds the label nan",
        ),
        (
            lambda f: save(f / "label/label0001.nii.gz", label(1, 14), AFFINE + np.eye(4, k=3)),
            "label0001.nii.gz lies elsewhere in space than its image img0001.nii.gz",
        ),
        (
            lambda f: save(f / "img/img0001.nii.gz", scan(1) * np.float32(np.inf)),
            "img0001.nii.gz holds NaN or infinite values",
        ),
        (
            lambda f: save(f / "img/img0001.nii.gz", scan(1, 2)),
            r"img0001.nii.gz has the shape \(6, 5, 4, 2\); btcv has 1 channels",
        ),
    ],
)
def test_whatever_is_wrong_with_btcv_is_said_with_the_name_of_the_file(btcv, spoil, message):
    spoil(btcv)
    with pytest.raises(InputError, match=message):
        nifti(NiftiConfig(root=btcv))


def rewrite(root: Path, **changes: object) -> None:
    facts = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**facts, **changes}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "dataset.json").write_text("{"), "dataset.json could not be understood"),
        (lambda f: rewrite(f, labels=None), "dataset.json could not be understood"),
        (lambda f: rewrite(f, labels={"0": "b", "2": "x"}), r"numbers the labels \[0, 2\]"),
        (lambda f: rewrite(f, labels={"0": "b", "1": "x"}), "holds the label 2 .* 0 to 1"),
        (lambda f: rewrite(f, modality={"0": "T2"}), "prostate has 1 channels"),
        (
            lambda f: (f / "imagesTr/prostate_01.nii.gz").unlink(),
            "imagesTr/prostate_01.nii.gz is listed in .*dataset.json and is not there",
        ),
        (
            lambda f: save(f / "labelsTr/prostate_07.nii.gz", label(7)),
            "labelsTr/prostate_07.nii.gz is not listed in .*dataset.json",
        ),
    ],
)
def test_whatever_is_wrong_with_a_decathlon_task_is_said_by_name(decathlon, spoil, message):
    spoil(decathlon)
    with pytest.raises(InputError, match=message):
        nifti(NiftiConfig(root=decathlon))


def test_empty_folders_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"neither a dataset.json .* nor the folders img and label"
    ):
        nifti(NiftiConfig(root=tmp_path))
    (tmp_path / "img").mkdir()
    (tmp_path / "label").mkdir()
    with pytest.raises(InputError, match="img holds no volumes"):
        nifti(NiftiConfig(root=tmp_path))


def test_without_the_reader_the_extra_is_named(btcv, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with pytest.raises(MissingExtraError, match=r"needs nibabel.*pip install 'qprobe\[medical\]'"):
        nifti(NiftiConfig(root=btcv))
