"""What a data set is: samples by number, each with an image, a mask and the patient it is from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from qprobe.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One slice or one volume.

    ``image`` is float32 ``[C, H, W]`` or ``[C, D, H, W]``; ``mask`` is uint8 ``[H, W]`` or
    ``[D, H, W]`` and holds class numbers, 0 for background. ``sample`` names the sample within its
    data set, ``patient`` is what a split must not cut through.
    """

    image: Tensor
    mask: Tensor
    patient: str
    sample: str

    def __post_init__(self) -> None:
        if self.image.dtype != torch.float32 or self.mask.dtype != torch.uint8:
            raise InputError(
                f"sample {self.sample!r} has an image of {self.image.dtype} and a mask of "
                f"{self.mask.dtype}; give float32 and uint8."
            )
        if self.image.dim() not in (3, 4) or self.image.shape[1:] != self.mask.shape:
            raise InputError(
                f"sample {self.sample!r} has an image of shape {tuple(self.image.shape)} and a "
                f"mask of shape {tuple(self.mask.shape)}; the mask must have the "
                "image's shape without its first axis, the channels."
            )


@runtime_checkable
class Dataset(Protocol):
    """Samples by number; the same number gives the same sample every time.

    ``patients`` names the patient of every sample without reading it. ``classes`` counts the
    background, so 2 is one structure against the rest.
    """

    @property
    def name(self) -> str:
        """What reports call the data."""

    @property
    def channels(self) -> int:
        """Channels of every image."""

    @property
    def classes(self) -> int:
        """Class numbers of the masks, background included."""

    @property
    def patients(self) -> Sequence[str]:
        """The patient of every sample."""

    def __len__(self) -> int:
        """How many samples there are."""

    def __getitem__(self, index: int) -> Sample:
        """The sample with this number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A sample that has been found and not read: its patient, its name and how to read it."""

    patient: str
    sample: str
    read: Callable[[], tuple[Tensor, Tensor]]


class LazyDataset:
    """Samples that are read from their files every time they are asked for."""

    def __init__(self, name: str, entries: Sequence[Entry], *, channels: int, classes: int) -> None:
        self.name = name
        self.channels = channels
        self.classes = classes
        self._entries = tuple(entries)
        self.patients = tuple(entry.patient for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self._entries[index]
        image, mask = entry.read()
        return Sample(image=image, mask=mask, patient=entry.patient, sample=entry.sample)


class HeldDataset:
    """Samples held in memory: every sample of ``source`` is read once, so all are known to be good.

    Images stay as they are given (float32): one at 256 × 256 with 3 channels takes 0.75 MiB.
    """

    def __init__(self, source: Dataset) -> None:
        self.name = source.name
        self.channels = source.channels
        self.classes = source.classes
        self._samples = tuple(source[index] for index in range(len(source)))
        self.patients = tuple(sample.patient for sample in self._samples)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


class ByteDataset:
    """Samples held in memory as bytes; an image is its bytes divided by 255.

    ``images`` is uint8 ``[N, C, ...]``, ``masks`` is uint8 ``[N, ...]``.
    """

    def __init__(self, name: str, images: Tensor, masks: Tensor, *, classes: int) -> None:
        self.name = name
        self.channels = images.shape[1]
        self.classes = classes
        self._images = images
        self._masks = masks
        self._per_patient = 1
        self.patients: tuple[str, ...] = tuple(f"p{index:04d}" for index in range(len(images)))

    @classmethod
    def of_patients(
        cls, name: str, images: Tensor, masks: Tensor, *, classes: int = 2
    ) -> "ByteDataset":
        """From ``[P, S, C, H, W]`` and ``[P, S, H, W]``: P patients with S slices each."""
        patients, slices = masks.shape[:2]
        made = cls(name, images.flatten(0, 1), masks.flatten(0, 1), classes=classes)
        made._per_patient = slices
        made.patients = tuple(f"p{index // slices:04d}" for index in range(patients * slices))
        return made

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        patient = self.patients[index]
        part = index % self._per_patient
        return Sample(
            image=self._images[index].float().div_(255),
            mask=self._masks[index],
            patient=patient,
            sample=patient if self._per_patient == 1 else f"{patient}/s{part:02d}",
        )
