"""Finding and reading the files of a data set; whatever is wrong with one is said with its name.

Files and folders whose name starts with a dot are not data (``.DS_Store``, ``._image.nii.gz``);
everything else in a data folder has to be accounted for.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qprobe.engine.data.resize import resize_image, resize_mask
from qprobe.errors import InputError, MissingExtraError


def reader(module: str) -> ModuleType:
    """The library that reads a format, imported when the first file is read."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"reading these files needs {module.partition('.')[0]}; "
            "install it with pip install 'qprobe[medical]'."
        ) from error


def children(folder: Path) -> list[Path]:
    """What a folder holds, by name."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give the folder that holds the data.")
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def read(path: Path, how: Callable[[Path], object]) -> NDArray[np.generic]:
    """The array in a file."""
    try:
        return np.asarray(how(path))
    except MissingExtraError:
        raise
    except Exception as error:  # a damaged file makes readers raise nearly anything
        raise InputError(
            f"{path} could not be read ({type(error).__name__}: {error}); "
            "restore it from the original archive or remove the pair."
        ) from error


def class_numbers(path: Path, label: NDArray[np.generic], classes: int) -> NDArray[np.uint8]:
    """Labels as uint8, after a check that they are whole numbers below ``classes``."""
    values = np.unique(label)
    wrong = [v for v in values.tolist() if v != v or v != int(v) or not 0 <= v < classes]
    if wrong:
        raise InputError(
            f"{path} holds the label {wrong[0]:g} and the data have the classes 0 to "
            f"{classes - 1}; correct the file or the number of classes."
        )
    return np.asarray(label.astype(np.uint8))


def binary(path: Path, mask: NDArray[np.generic]) -> NDArray[np.uint8]:
    """A mask of 0 and 255 (or 0 and 1, or booleans) as 0 and 1."""
    values = np.unique(mask).tolist()
    if not (set(values) <= {0, 255} or set(values) <= {0, 1}):
        wrong = next(value for value in values if value not in (0, 255))
        raise InputError(
            f"{path} is a mask with the value {wrong:g}; a mask holds 0 and 255, or 0 and 1."
        )
    return np.asarray(mask != 0).astype(np.uint8)


def same_shape(path: Path, mask_path: Path, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
    """Refuse a mask whose shape is not its image's."""
    if image != mask:
        raise InputError(
            f"{mask_path} has the shape {mask} and its image {path.name} has {image}; "
            "an image and its mask have the same shape."
        )


def tensors(
    image: NDArray[np.float32], mask: NDArray[np.uint8], size: int | None
) -> tuple[Tensor, Tensor]:
    """``[C, ...]`` and ``[...]`` as tensors, every axis resized to ``size`` if one is given."""
    # ascontiguousarray also copies what a reader left read-only or in foreign byte order.
    pixels = torch.from_numpy(np.ascontiguousarray(image, np.float32))
    label = torch.from_numpy(np.ascontiguousarray(mask, np.uint8))
    if size is None:
        return pixels, label
    target = (size,) * label.dim()
    return resize_image(pixels, target), resize_mask(label, target)


def check_size(image: int | None) -> None:
    """Refuse a size no image can have."""
    if image is not None and image < 1:
        raise InputError(f"an image size of {image} is not possible; give 1 or more.")
