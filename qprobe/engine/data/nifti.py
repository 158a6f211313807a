"""``nifti``: volumes in the layout of the Medical Segmentation Decathlon or of BTCV.

::

    Task09_Spleen/
      dataset.json                    names, modalities, classes, training pairs
      imagesTr/spleen_2.nii.gz        [X, Y, Z], or [X, Y, Z, modality]
      labelsTr/spleen_2.nii.gz        class numbers
      imagesTs/                       without labels, not read

    RawData/Training/
      img/img0001.nii.gz   label/label0001.nii.gz          13 organs and background

Volumes are turned to one orientation (right, anterior, superior) and given as ``[C, Z, Y, X]``.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from qprobe.engine.data import files
from qprobe.engine.data.dataset import Dataset, Entry, HeldDataset, LazyDataset
from qprobe.errors import InputError

BTCV_CLASSES = 14
_BTCV_INSIDE = ("RawData/Training", "Training")
# Headers store positions as float32 in mm: this is far below a voxel and far above their rounding.
_POSITION_MM = 0.01


class View(StrEnum):
    """What a sample is."""

    VOLUME = "volume"
    SLICE = "slice"


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiConfig:
    """Where the volumes are and what to make of them.

    ``image`` resizes every axis of a sample to one length; None keeps the sizes of the files.
    ``view`` ``slice`` gives axial slices, each volume being a patient. ``binary`` joins all classes
    but the background. ``in_memory`` reads and checks everything at once.
    """

    root: Path
    image: int | None = None
    view: View = View.VOLUME
    binary: bool = False
    in_memory: bool = True

    def __post_init__(self) -> None:
        files.check_size(self.image)


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    image: Path
    label: Path


@dataclass(frozen=True, slots=True)
class _Layout:
    name: str
    channels: int
    classes: int
    cases: tuple[_Case, ...]


class _Volumes:
    """Reads cases and keeps the last one: its slices are asked for one after the other."""

    def __init__(self, layout: _Layout) -> None:
        self._layout = layout
        self._last: tuple[_Case, tuple[Any, Any]] | None = None

    def read(self, case: _Case) -> tuple[Any, Any]:
        if self._last is None or self._last[0] != case:
            self._last = case, _volume(case, self._layout)
        return self._last[1]


def nifti(config: NiftiConfig) -> Dataset:
    """The volumes, or their slices, in the order of the cases' names."""
    root = Path(config.root)
    files.children(root)
    if (root / "dataset.json").is_file():
        layout = _decathlon(root)
    else:
        inner = next((root / name for name in _BTCV_INSIDE if (root / name).is_dir()), root)
        if not ((inner / "img").is_dir() and (inner / "label").is_dir()):
            raise InputError(
                f"{root} has neither a dataset.json (Medical Segmentation Decathlon) nor the "
                "folders img and label (BTCV); give the folder of one task."
            )
        layout = _btcv(inner)
    volumes = _Volumes(layout)
    entries = [entry for case in layout.cases for entry in _entries(case, volumes, config)]
    classes = 2 if config.binary else layout.classes
    lazy = LazyDataset(layout.name, entries, channels=layout.channels, classes=classes)
    return HeldDataset(lazy) if config.in_memory else lazy


def _decathlon(root: Path) -> _Layout:
    path = root / "dataset.json"
    try:
        facts = json.loads(path.read_text())
        classes = sorted(int(number) for number in facts["labels"])
        channels = len(facts["modality"])
        pairs = [(root / pair["image"], root / pair["label"]) for pair in facts["training"]]
        name = str(facts["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} could not be understood ({type(error).__name__}: {error}); it names the data "
            "and lists 'modality', 'labels' and 'training' pairs of 'image' and 'label'."
        ) from error
    if classes != list(range(len(classes))) or len(classes) < 2:
        raise InputError(f"{path} numbers the labels {classes}; they are 0, 1, 2 and so on.")
    cases = tuple(_Case(_stem(image), image, label) for image, label in sorted(pairs))
    for case in cases:
        for part in (case.image, case.label):
            if not part.is_file():
                raise InputError(f"{part} is listed in {path} and is not there; restore it.")
    _refuse_others(root / "imagesTr", {case.image for case in cases}, path)
    _refuse_others(root / "labelsTr", {case.label for case in cases}, path)
    if not cases:
        raise InputError(f"{path} lists no training pairs; give the folder of one task.")
    return _Layout(name.lower(), channels, len(classes), cases)


def _refuse_others(folder: Path, listed: set[Path], source: Path) -> None:
    known = {path.resolve() for path in listed}
    for path in files.children(folder):
        if path.resolve() not in known:
            raise InputError(f"{path} is not listed in {source}; list it or move it away.")


def _btcv(root: Path) -> _Layout:
    found: dict[str, dict[str, Path]] = {}
    for part in ("img", "label"):
        found[part] = {}
        for path in files.children(root / part):
            match = re.fullmatch(rf"{part}(\d+)\.nii(\.gz)?", path.name)
            if match is None:
                raise InputError(
                    f"{path} is not called {part}NNNN.nii.gz; rename it or move it out of "
                    "the folder."
                )
            if match[1] in found[part]:
                raise InputError(f"{path} and {found[part][match[1]].name} are one case; keep one.")
            found[part][match[1]] = path
    images, labels = found["img"], found["label"]
    for number in sorted(images.keys() ^ labels.keys()):
        lonely, has = (images, "label") if number in images else (labels, "image")
        raise InputError(f"{lonely[number]} has no {has}; restore or remove the pair.")
    if not images:
        raise InputError(f"{root / 'img'} holds no volumes; give the folder with img and label.")
    cases = tuple(_Case(_stem(images[n]), images[n], labels[n]) for n in sorted(images))
    return _Layout("btcv", 1, BTCV_CLASSES, cases)


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name)


def _entries(case: _Case, volumes: _Volumes, config: NiftiConfig) -> Iterator[Entry]:
    if config.view is View.VOLUME:
        read = partial(_read, case, volumes, config, None)
        yield Entry(patient=case.name, sample=case.name, read=read)
        return
    for z in range(volumes.read(case)[0].shape[1]):
        read = partial(_read, case, volumes, config, z)
        yield Entry(patient=case.name, sample=f"{case.name}/z{z:04d}", read=read)


def _read(
    case: _Case, volumes: _Volumes, config: NiftiConfig, z: int | None
) -> tuple[Tensor, Tensor]:
    image, label = volumes.read(case)
    if config.binary:
        label = (label > 0).astype(np.uint8)
    if z is not None:
        image, label = image[:, z], label[z]
    return files.tensors(image, label, config.image)


def _volume(case: _Case, layout: _Layout) -> tuple[Any, Any]:
    """The image ``[C, Z, Y, X]`` and the class numbers ``[Z, Y, X]`` of a case."""
    image, image_at = _oriented(case.image)
    label, label_at = _oriented(case.label)
    shape = image.shape[:3]
    if image.ndim == 3:
        image = image[..., None]
    if image.ndim != 4 or image.shape[3] != layout.channels:
        raise InputError(
            f"{case.image} has the shape {image.shape}; {layout.name} has {layout.channels} "
            "channels, on the fourth axis."
        )
    files.same_shape(case.image, case.label, shape, label.shape)
    if not np.allclose(image_at, label_at, rtol=0, atol=_POSITION_MM):
        raise InputError(
            f"{case.label} lies elsewhere in space than its image {case.image.name} (their affines "
            "differ); register or resample the pair."
        )
    if not np.isfinite(image).all():
        raise InputError(f"{case.image} holds NaN or infinite values; repair or remove the pair.")
    numbers = files.class_numbers(case.label, label, layout.classes)
    return image.transpose(3, 2, 1, 0), numbers.transpose(2, 1, 0)


def _oriented(path: Path) -> tuple[Any, Any]:
    """The voxels and the affine of a file, axes towards right, anterior and superior."""
    nibabel = files.reader("nibabel")
    affine = None

    def load(path: Path) -> object:
        nonlocal affine
        volume = nibabel.as_closest_canonical(nibabel.load(path))
        affine = volume.affine
        return volume.get_fdata(dtype=np.float32)

    voxels = files.read(path, load)
    return voxels, affine
