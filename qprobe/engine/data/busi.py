"""``busi``: breast ultrasound in the layout of Dataset_BUSI_with_GT.

::

    Dataset_BUSI_with_GT/
      benign/     benign (1).png   benign (1)_mask.png   benign (1)_mask_1.png ...
      malignant/  malignant (1).png ...
      normal/     normal (1).png   normal (1)_mask.png (empty)

Several masks of one image are merged. The release does not say which images are of one patient, so
every image counts as a patient: a split cannot keep two images of one person together.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qprobe.engine.data import files
from qprobe.engine.data.dataset import Dataset, Entry, HeldDataset, LazyDataset
from qprobe.errors import InputError

_DIAGNOSES = ("benign", "malignant", "normal")
_INSIDE = "Dataset_BUSI_with_GT"


@dataclass(frozen=True, slots=True, kw_only=True)
class BusiConfig:
    """Where the diagnoses' folders are, and the size and channels to give the images.

    ``image`` is the side of the square the images, all of different size, are resized to; None
    keeps their sizes. ``channels`` is 3 or 1 (grey). ``in_memory`` reads and checks everything at
    once.
    """

    root: Path
    image: int | None = 256
    channels: int = 3
    in_memory: bool = True

    def __post_init__(self) -> None:
        files.check_size(self.image)
        if self.channels not in (1, 3):
            raise InputError(f"the BUSI images have 1 or 3 channels, not {self.channels}.")


def busi(config: BusiConfig) -> Dataset:
    """The images of every diagnosis, in the order of their numbers."""
    root = Path(config.root)
    root = root / _INSIDE if (root / _INSIDE).is_dir() else root
    folders = [path for path in files.children(root) if path.is_dir()]
    for folder in folders:
        if folder.name not in _DIAGNOSES:
            raise InputError(
                f"{folder} is not one of the folders {', '.join(_DIAGNOSES)}; "
                "move it out of the data folder."
            )
    if not folders:
        raise InputError(
            f"{root} holds none of the folders {', '.join(_DIAGNOSES)}; give {_INSIDE}."
        )
    entries = [entry for folder in folders for entry in _diagnosis(folder, config)]
    lazy = LazyDataset("busi", entries, channels=config.channels, classes=2)
    return HeldDataset(lazy) if config.in_memory else lazy


def _diagnosis(folder: Path, config: BusiConfig) -> Iterator[Entry]:
    name = folder.name
    pattern = re.compile(rf"{name} \((\d+)\)(_mask(?:_\d+)?)?\.png")
    images: dict[int, Path] = {}
    masks: dict[int, list[Path]] = {}
    for path in files.children(folder):
        match = pattern.fullmatch(path.name)
        if match is None:
            raise InputError(
                f"{path} is neither an image ({name} (N).png) nor a mask ({name} (N)_mask.png); "
                "rename it or move it out of the folder."
            )
        if match[2]:
            masks.setdefault(int(match[1]), []).append(path)
        else:
            images[int(match[1])] = path
    if not images and not masks:
        raise InputError(f"{folder} holds no images; restore or remove the folder.")
    for number in sorted(images.keys() ^ masks.keys()):
        lonely, has = (images[number], "mask") if number in images else (masks[number][0], "image")
        raise InputError(f"{lonely} has no {has}; restore or remove the pair.")
    for number in sorted(images):
        sample = images[number].stem
        read = partial(_read, images[number], tuple(masks[number]), config)
        yield Entry(patient=sample, sample=sample, read=read)


def _read(path: Path, mask_paths: tuple[Path, ...], config: BusiConfig) -> tuple[Tensor, Tensor]:
    grey = config.channels == 1
    image = files.read(path, lambda p: _pixels(p, "L" if grey else "RGB"))
    merged = np.zeros(image.shape[:2], np.uint8)
    for mask_path in mask_paths:
        mask = files.read(mask_path, lambda p: _pixels(p, None))
        if mask.ndim == 3:
            mask = _flat(mask_path, mask)
        files.same_shape(path, mask_path, image.shape[:2], mask.shape)
        merged |= files.binary(mask_path, mask)
    if path.parent.name == "normal" and merged.any():
        raise InputError(f"{mask_paths[0]} marks a lesion in a normal image; correct or remove it.")
    pixels = np.atleast_3d(image).astype(np.float32).transpose(2, 0, 1) / np.float32(255)
    return files.tensors(pixels, merged, config.image)


def _pixels(path: Path, mode: str | None) -> NDArray[np.generic]:
    pillow = files.reader("PIL.Image")
    with pillow.open(path) as picture:
        # A palette's numbers are not brightness.
        mode = "RGB" if mode is None and picture.mode == "P" else mode
        return np.asarray(picture if mode is None else picture.convert(mode))


def _flat(path: Path, mask: NDArray[np.generic]) -> NDArray[np.generic]:
    """The one plane of a mask that was saved as a colour picture; opacity is left out."""
    colours = mask[..., : 1 if mask.shape[2] == 2 else 3]
    if (colours != colours[..., :1]).any():
        raise InputError(f"{path} is a mask in colours; a mask is black and white.")
    return colours[..., 0]
