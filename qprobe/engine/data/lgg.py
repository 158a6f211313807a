"""``lgg``: MRI of lower-grade gliomas in the layout of kaggle_3m.

::

    kaggle_3m/
      TCGA_CS_4941_19960909/                     one folder per patient
        TCGA_CS_4941_19960909_1.tif              uint8 [H, W, 3]: before contrast, FLAIR, after
        TCGA_CS_4941_19960909_1_mask.tif         uint8 [H, W]: 0 and 255
      data.csv, README.md                        beside the patients, not read
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from qprobe.engine.data import files
from qprobe.engine.data.dataset import Dataset, Entry, HeldDataset, LazyDataset
from qprobe.errors import InputError

_FLAIR = 1
_INSIDE = ("kaggle_3m", "lgg-mri-segmentation/kaggle_3m")


@dataclass(frozen=True, slots=True, kw_only=True)
class LggConfig:
    """Where the patients are, and the size and channels to give their slices.

    ``root`` is the folder with the ``TCGA_*`` folders, or one that holds ``kaggle_3m``. ``image``
    None keeps the size of the files. ``channels`` is 3, or 1 for FLAIR alone. ``in_memory`` reads
    and checks everything at once.
    """

    root: Path
    image: int | None = None
    channels: int = 3
    in_memory: bool = True

    def __post_init__(self) -> None:
        files.check_size(self.image)
        if self.channels not in (1, 3):
            raise InputError(
                f"the LGG slices have 3 channels, give 3 or 1 and not {self.channels}."
            )


def lgg(config: LggConfig) -> Dataset:
    """The slices of all patients, in the order of their numbers."""
    root = Path(config.root)
    root = next((root / name for name in _INSIDE if (root / name).is_dir()), root)
    folders = [path for path in files.children(root) if path.is_dir()]
    for folder in folders:
        if not folder.name.startswith("TCGA_"):
            raise InputError(
                f"{folder} is not a patient's folder (TCGA_...); move it out of the data folder."
            )
    if not folders:
        raise InputError(f"{root} holds no patient's folder (TCGA_...); give the kaggle_3m folder.")
    entries = [entry for folder in folders for entry in _patient(folder, config)]
    lazy = LazyDataset("lgg", entries, channels=config.channels, classes=2)
    return HeldDataset(lazy) if config.in_memory else lazy


def _patient(folder: Path, config: LggConfig) -> Iterator[Entry]:
    pattern = re.compile(rf"{re.escape(folder.name)}_(\d+)(_mask)?\.tif")
    images: dict[int, Path] = {}
    masks: dict[int, Path] = {}
    for path in files.children(folder):
        match = pattern.fullmatch(path.name)
        if match is None:
            raise InputError(
                f"{path} is neither a slice ({folder.name}_N.tif) nor its mask "
                f"({folder.name}_N_mask.tif); rename it or move it out of the folder."
            )
        (masks if match[2] else images)[int(match[1])] = path
    if not images and not masks:
        raise InputError(f"{folder} holds no slices; restore or remove the folder.")
    for number in sorted(images.keys() ^ masks.keys()):
        lonely, has = (images, "mask") if number in images else (masks, "image")
        raise InputError(f"{lonely[number]} has no {has}; restore or remove the pair.")
    for number in sorted(images):
        read = partial(_read, images[number], masks[number], config)
        yield Entry(patient=folder.name, sample=images[number].stem, read=read)


def _read(path: Path, mask_path: Path, config: LggConfig) -> tuple[Tensor, Tensor]:
    tifffile = files.reader("tifffile")
    image = files.read(path, tifffile.imread)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(
            f"{path} is {image.dtype} of shape {image.shape}; a slice is uint8 [H, W, 3]."
        )
    mask = files.read(mask_path, tifffile.imread)
    files.same_shape(path, mask_path, image.shape[:2], mask.shape)
    pixels = image.astype(np.float32).transpose(2, 0, 1) / np.float32(255)
    if config.channels == 1:
        pixels = pixels[_FLAIR : _FLAIR + 1]
    return files.tensors(pixels, files.binary(mask_path, mask), config.image)
