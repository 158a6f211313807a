"""``phantom3d``: generated volumes of a trunk, one per patient, with five organs to segment."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from qprobe.engine.data import abdomen, cache, fields
from qprobe.engine.data.dataset import ByteDataset
from qprobe.errors import InputError

CLASSES = len(abdomen.CLASSES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom3dConfig:
    """Which volumes: a patient depends on ``seed``, its number and ``image`` only.

    ``image`` is the number of voxels along each of the three axes, ``cache`` where the data are
    kept once generated.
    """

    image: int = 48
    patients: int = 40
    seed: int = 0
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.image < 16:
            raise InputError(
                f"a phantom volume of {self.image} voxels is too small; give 16 or more."
            )
        if self.patients < 1:
            raise InputError(f"a phantom needs at least one patient, not {self.patients}.")
        if self.seed < 0:
            raise InputError(f"the phantom's seed is {self.seed}; give 0 or more.")


def volume(config: Phantom3dConfig, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The image, uint8 ``[1, D, H, W]``, and the class numbers, ``[D, H, W]``, of one patient."""
    seed = np.random.SeedSequence([config.seed, number, config.image])
    image, label = abdomen.draw(seed, config.image)
    return torch.from_numpy(image), torch.from_numpy(label)


def phantom3d(config: Phantom3dConfig) -> ByteDataset:
    """The volumes that ``config`` describes, generated on first use."""
    stored = cache.cached(cache.folder(config.cache) / _name(config), lambda: _make(config))
    return ByteDataset("phantom3d", stored["images"], stored["masks"], classes=CLASSES)


def _make(config: Phantom3dConfig) -> dict[str, torch.Tensor]:
    pairs = (volume(config, number) for number in range(config.patients))
    images, masks = zip(*pairs, strict=True)
    return {"images": torch.stack(images), "masks": torch.stack(masks)}


def _name(config: Phantom3dConfig) -> str:
    facts = {
        "image": config.image,
        "patients": config.patients,
        "seed": config.seed,
        "numpy": np.__version__,
    }
    sources = tuple(Path(module.__file__ or "") for module in (abdomen, fields))
    digest = cache.key(facts, (*sources, Path(__file__)))
    return f"phantom3d-{config.image}-{digest}.safetensors"
