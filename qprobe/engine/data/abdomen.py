"""One generated volume: a trunk with five organs of different size and contrast.

The classes are imbalanced as in a real abdomen: the liver fills a tenth of the volume, the aorta a
few hundredths of that. Organs are ellipsoids under one smooth deformation of space, so outlines
differ between patients and neighbours stay neighbours; some organs are as bright as what surrounds
them and can be told apart by place and shape only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from qprobe.engine.data.fields import Field, edge, smooth

CLASSES = ("background", "liver", "spleen", "right kidney", "left kidney", "aorta")


@dataclass(frozen=True, slots=True)
class _Organ:
    """Centre and half axes (z up, y back, x to the image's right) in a trunk of radius 1."""

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    brightness: float


_ORGANS = (
    _Organ((0.25, -0.10, -0.38), (0.62, 0.46, 0.42), 0.56),
    _Organ((0.30, 0.22, 0.58), (0.40, 0.28, 0.20), 0.60),
    _Organ((-0.35, 0.38, -0.38), (0.38, 0.17, 0.15), 0.66),
    _Organ((-0.25, 0.38, 0.38), (0.38, 0.17, 0.15), 0.66),
    _Organ((0.00, 0.28, 0.06), (1.60, 0.09, 0.09), 0.70),
)
_FAT, _MUSCLE, _SPINE, _GUT = 0.22, 0.48, 0.85, 0.46


def draw(seed: np.random.SeedSequence, image: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image ``[1, D, H, W]`` and its class numbers ``[D, H, W]``, ``image`` voxels each way."""
    anatomy, scanner = (np.random.default_rng(part) for part in seed.spawn(2))
    axis = ((np.arange(image, dtype=np.float32) + 0.5) / image * 2 - 1).astype(np.float32)
    shape = (image, image, image)
    z, y, x = (
        plain + np.float32(0.06) * smooth(anatomy, shape, (3, 3, 3))
        for plain in (axis[:, None, None], axis[None, :, None], axis[None, None, :])
    )
    wide, deep = anatomy.uniform(0.84, 0.95), anatomy.uniform(0.62, 0.74)
    trunk = np.sqrt((x / wide) ** 2 + (y / deep) ** 2)
    canvas = _trunk(anatomy, trunk, (z, y / deep, x / wide))
    label = np.zeros(shape, np.uint8)
    for number, organ in enumerate(_ORGANS, start=1):
        inside = _inside(anatomy, organ, (z, y / deep, x / wide)) & (trunk < 0.86)
        canvas[inside] = organ.brightness * anatomy.uniform(0.90, 1.10)
        label[inside] = number
    return _scan(scanner, canvas)[None], label


def _inside(
    rng: np.random.Generator, organ: _Organ, at: tuple[Field, Field, Field]
) -> NDArray[np.bool_]:
    """The voxels of an organ whose place and size vary by a few per cent."""
    squared: Field = np.zeros((), np.float32)
    for position, centre, extent in zip(at, organ.centre, organ.axes, strict=True):
        middle = centre + rng.uniform(-0.04, 0.04)
        squared = squared + ((position - middle) / (extent * rng.uniform(0.88, 1.12))) ** 2
    return np.asarray(squared < 1)


def _trunk(rng: np.random.Generator, trunk: Field, at: tuple[Field, Field, Field]) -> Field:
    """What surrounds the organs: fat, muscle, gut of varying brightness, the spine."""
    _, y, x = at
    canvas = edge(1 - trunk, 0.05) * np.float32(_FAT)
    gut = _GUT + 0.08 * smooth(rng, trunk.shape, (5, 8, 8))
    canvas = np.where(trunk < 0.88, gut, canvas)
    canvas = np.where((trunk >= 0.86) & (trunk < 0.93), np.float32(_MUSCLE), canvas)
    canvas = np.where((x / 0.14) ** 2 + ((y - 0.62) / 0.20) ** 2 < 1, np.float32(_SPINE), canvas)
    return canvas.astype(np.float32)


def _scan(rng: np.random.Generator, canvas: Field) -> NDArray[np.uint8]:
    """Partial volume, texture, a slow drift of brightness, noise, eight bits."""
    signal = gaussian_filter(canvas, 0.6)
    signal = signal * (1 + 0.06 * smooth(rng, canvas.shape, (2, 2, 2)))
    signal = signal + 0.03 * smooth(rng, canvas.shape, (10, 10, 10)) * (canvas > 0.1)
    signal = signal + np.float32(0.05) * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.asarray(np.clip(np.rint(signal * 255), 0, 255), np.uint8)
