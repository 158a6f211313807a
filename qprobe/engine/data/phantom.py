"""``phantom``: generated patients × slices of a head with lesions, the default data.

Made for comparing recipes, not for medicine: a good model stays well below a perfect score, about a
third of the slices and about 1 % of the pixels are positive. Setting ``easy`` has better contrast
and steadier labels than ``hard``.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch

from qprobe.engine.data import brain, cache, fields
from qprobe.engine.data.dataset import ByteDataset
from qprobe.errors import InputError


class Setting(StrEnum):
    """How hard the data are."""

    EASY = "easy"
    HARD = "hard"


DIFFICULTY = {
    Setting.EASY: brain.Difficulty(contrast=(0.20, 0.50), jitter=0.06),
    Setting.HARD: brain.Difficulty(contrast=(0.10, 0.45), jitter=0.10),
}
# 80 or 48 patients to train on, 16 to validate and 16 to test.
PATIENTS = {Setting.EASY: 112, Setting.HARD: 80}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomConfig:
    """Which phantom: a patient depends on ``seed``, its number, ``setting``, ``image`` and
    ``slices``, and on nothing else.

    ``channels`` is 3 (before contrast, FLAIR, after contrast) or 1 (FLAIR). ``patients`` is 112
    (``easy``) or 80 (``hard``) unless given. ``cache`` is where the data are kept once generated.
    """

    setting: Setting = Setting.EASY
    image: int = 64
    patients: int | None = None
    slices: int = 12
    channels: int = 3
    seed: int = 0
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.image < 16:
            raise InputError(
                f"a phantom image of {self.image} pixels is too small; give 16 or more."
            )
        if self.channels not in (1, 3):
            raise InputError(f"a phantom has 1 or 3 channels, not {self.channels}.")
        for name in ("patients", "slices"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise InputError(f"a phantom needs at least one of {name}, not {count}.")
        if self.seed < 0:
            raise InputError(f"the phantom's seed is {self.seed}; give 0 or more.")


def patient(config: PhantomConfig, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 ``[slices, 3, H, W]`` and masks uint8 ``[slices, H, W]`` of one patient."""
    settings = tuple(Setting)
    seed = np.random.SeedSequence(
        [config.seed, number, settings.index(config.setting), config.image]
    )
    pixels = brain.grid(config.image, config.slices)
    images, masks = brain.draw(seed, pixels, DIFFICULTY[config.setting])
    return torch.from_numpy(images), torch.from_numpy(masks)


def phantom(config: PhantomConfig) -> ByteDataset:
    """The phantom that ``config`` describes, generated on first use."""
    count = PATIENTS[config.setting] if config.patients is None else config.patients
    stored = cache.cached(
        cache.folder(config.cache) / _name(config, count), lambda: _make(config, count)
    )
    images = stored["images"]
    if config.channels == 1:
        images = images[:, :, brain.FLAIR : brain.FLAIR + 1]
    return ByteDataset.of_patients(f"phantom-{config.setting}", images, stored["masks"])


def _make(config: PhantomConfig, count: int) -> dict[str, torch.Tensor]:
    images, masks = zip(*(patient(config, number) for number in range(count)), strict=True)
    return {"images": torch.stack(images), "masks": torch.stack(masks)}


def _name(config: PhantomConfig, count: int) -> str:
    facts = {
        "setting": config.setting,
        "image": config.image,
        "patients": count,
        "slices": config.slices,
        "seed": config.seed,
        "numpy": np.__version__,
    }
    sources = tuple(Path(module.__file__ or "") for module in (brain, fields))
    digest = cache.key(facts, (*sources, Path(__file__)))
    return f"phantom-{config.setting}-{config.image}-{digest}.safetensors"
