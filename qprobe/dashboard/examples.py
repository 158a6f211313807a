"""The sample images that a run keeps: what the model saw, what is true, what it said."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qprobe.records import RunReader

Picture = NDArray[np.uint8]
Truth = NDArray[np.bool_]

#: Found, missed and false alarm: apart for every kind of colour vision.
HIT, MISSED, ALARM = (47, 191, 143), (230, 159, 0), (204, 121, 255)


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One sample as one slice: grey image from 0 to 1, mask, and where the model said yes."""

    image: NDArray[np.float64]
    mask: Truth
    predicted: Truth

    @property
    def wrong(self) -> float:
        """Share of pixels on which prediction and mask differ."""
        return float((self.mask != self.predicted).mean())


def examples(reader: RunReader, most: int = 12) -> dict[str, Example]:
    """The first samples of the last test, by name."""
    kinds: dict[str, dict[str, NDArray[Any]]] = {}
    for array in reader.arrays(probe="examples"):
        sample, _, kind = array.key.rpartition(".")
        if sample in kinds or len(kinds) < most:
            kinds.setdefault(sample, {})[kind] = array.data  # later tests replace earlier ones
    return {
        sample: _example(parts)
        for sample, parts in kinds.items()
        if {"image", "mask", "logits"} <= parts.keys()
    }


def grey(example: Example) -> Picture:
    """The image alone."""
    return np.repeat((255 * example.image).astype(np.uint8)[..., None], 3, axis=2)


def overlaid(example: Example, predicted: Truth | None = None) -> Picture:
    """The image with what was found, missed and falsely reported; the mask alone without one."""
    picture = grey(example).astype(np.float64)
    said = example.mask if predicted is None else predicted
    for colour, where in (
        (HIT, said & example.mask),
        (MISSED, ~said & example.mask),
        (ALARM, said & ~example.mask),
    ):
        picture[where] = 0.45 * picture[where] + 0.55 * np.array(colour)
    return picture.astype(np.uint8)


def _example(parts: Mapping[str, NDArray[Any]]) -> Example:
    logits = parts["logits"].astype(np.float64)
    said = logits[0] > 0 if len(logits) == 1 else logits.argmax(0) > 0
    mask = parts["mask"][0] > 0
    image = parts["image"].astype(np.float64).mean(0)
    if image.ndim == 3:  # the slice of a volume with most of the truth in it
        slice_ = int(mask.reshape(len(mask), -1).sum(1).argmax()) if mask.any() else len(mask) // 2
        image, mask, said = image[slice_], mask[slice_], said[slice_]
    finite = np.where(np.isfinite(image), image, 0.0)
    low, high = np.percentile(finite, [1, 99])
    image = np.clip((finite - low) / max(high - low, 1e-12), 0.0, 1.0)
    return Example(image=image, mask=mask, predicted=said)
