"""One generated patient: axial slices of a head, with lesions and with what resembles lesions.

Three co-registered sequences are drawn, in the channel order of the LGG set: before contrast (T1),
FLAIR, after contrast (T1). Lesions are brighter than their surroundings on FLAIR and slightly
darker on T1. Bright on FLAIR too, and not lesions: caps around the ventricles, the rim of the
cortex, dots in the white matter. Vessels and the field of the coil add to it. The label follows a
hand that is not steady: its outline leaves the visible one by a few per cent of the radius.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from qprobe.engine.data.fields import Field, bump, edge, smooth, wave

ANGLES = 256
BRAIN = 0.82  # the brain's radius as a share of the head's
FLAIR = 1
_SEQUENCES = 3

# Brightness of each tissue on T1, FLAIR and T1 after contrast; white is 1.
_SCALP = (0.78, 0.62, 0.80)
_SKULL = (0.08, 0.07, 0.08)
_FLUID = (0.14, 0.10, 0.14)
_GREY = (0.40, 0.50, 0.42)
_WHITE = (0.56, 0.42, 0.58)
# What a structure of unit contrast adds on each sequence.
_LESION = (-0.20, 0.65, -0.12)
_GLIOSIS = (-0.14, 0.65, -0.14)
_VESSEL = (-0.10, -0.45, 0.55)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """How hard the lesions are to find and how unsteady the hand that labelled them is.

    ``contrast`` is the range a lesion's strength is drawn from; 1 would add 0.65 of the full scale
    on FLAIR. ``jitter`` is the deviation of the label's outline from the visible one, in radii.
    """

    contrast: tuple[float, float]
    jitter: float


@dataclass(frozen=True, slots=True)
class Grid:
    """Pixel centres of every slice: ``x`` to the right, ``y`` down, ``z`` up, within [−1, 1]."""

    x: Field
    y: Field
    z: Field

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return len(self.z), self.y.shape[1], self.x.shape[2]

    @property
    def pixel(self) -> float:
        """The width of a pixel."""
        return 2.0 / self.shape[2]


@dataclass(frozen=True, slots=True)
class Head:
    """Where a patient's head is: coordinates in which the brain is the unit disc."""

    u: Field
    v: Field
    r: Field
    angle: NDArray[np.intp]
    tissue: Field
    ventricles: Field
    pixel: float

    def along(self, curve: Field) -> Field:
        """A closed curve, or one per slice, read at the angle of every pixel."""
        return curve[self.angle]


@dataclass(frozen=True, slots=True)
class Ball:
    """A soft ellipsoid: half axes in the plane and along z, and what it adds to each sequence."""

    size: tuple[float, float, float]
    weights: tuple[float, ...]


@lru_cache(maxsize=8)
def grid(image: int, slices: int) -> Grid:
    """The pixels of ``slices`` slices of ``image`` × ``image``, from below the ventricles up."""
    axis = ((np.arange(image, dtype=np.float32) + 0.5) / image * 2 - 1).astype(np.float32)
    z = (
        np.linspace(-0.50, 0.70, slices, dtype=np.float32)
        if slices > 1
        else np.zeros(1, np.float32)
    )
    return Grid(axis[None, None, :], axis[None, :, None], z[:, None, None])


def draw(
    seed: np.random.SeedSequence, pixels: Grid, difficulty: Difficulty
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images ``[S, 3, H, W]`` and masks ``[S, H, W]`` of one patient."""
    anatomy, lookalikes, lesions, scanner = (np.random.default_rng(s) for s in seed.spawn(4))
    head, layers = _head(anatomy, pixels)
    canvas = _paint(layers, pixels.shape)
    _add_lookalikes(lookalikes, canvas, head, pixels, difficulty)
    mask = _add_lesions(lesions, canvas, head, pixels, difficulty)
    return _scan(scanner, canvas, pixels), mask


def _head(
    rng: np.random.Generator, pixels: Grid
) -> tuple[Head, list[tuple[Field, tuple[float, ...]]]]:
    """The head's frame, and its layers from the outside in with their brightness."""
    tilt = rng.uniform(-0.15, 0.15)
    x, y = pixels.x - rng.uniform(-0.05, 0.05), pixels.y - rng.uniform(-0.05, 0.05)
    profile = np.sqrt(1 - (pixels.z / 1.15) ** 2)
    across = (math.cos(tilt) * x + math.sin(tilt) * y) / (rng.uniform(0.66, 0.76) * profile)
    along = (math.cos(tilt) * y - math.sin(tilt) * x) / (rng.uniform(0.82, 0.90) * profile)
    turn = np.arctan2(along, across) / (2 * np.pi)
    angle = (turn * ANGLES).astype(np.intp) % ANGLES
    outline = 1 + 0.02 * wave(rng, range(2, 5), ANGLES)
    outer = np.sqrt(across**2 + along**2) / outline[angle]
    r = outer / BRAIN
    ramp = 1.3 * pixels.pixel
    folds = smooth(rng, pixels.shape, (4, 20, 20))
    ventricles = _ventricles(rng, across / BRAIN, along / BRAIN, pixels)
    tissue = edge(1 - r, ramp) * (1 - ventricles)
    head = Head(across / BRAIN, along / BRAIN, r, angle, tissue, ventricles, pixels.pixel)
    layers: list[tuple[Field, tuple[float, ...]]] = [
        (edge(1 - outer, ramp), _SCALP),
        (edge(0.94 - outer, ramp), _SKULL),
        (edge(1.05 - r, ramp), _FLUID),
        (edge(1 - 0.13 * np.clip(folds - 0.6, 0, 1) - r, ramp), _GREY),
        (edge(0.83 - 0.11 * np.clip(folds, -2, 1) - r, 2 * ramp), _WHITE),
        (_midline(head, pixels), _FLUID),
        (ventricles, _FLUID),
    ]
    return head, layers


def _ventricles(rng: np.random.Generator, u: Field, v: Field, pixels: Grid) -> Field:
    """Two lateral ventricles, open in the middle slices."""
    height = np.maximum(1 - ((pixels.z - rng.uniform(0.05, 0.2)) / 0.5) ** 2, 1e-3)
    wide, long = rng.uniform(0.08, 0.15), rng.uniform(0.30, 0.45)
    lean = rng.uniform(0.15, 0.35)
    shift = rng.uniform(-0.1, 0.05)
    side = np.abs(u) - 0.16 - lean * np.abs(v - shift) * 0.6
    distance = np.sqrt((side / wide) ** 2 + ((v - shift) / long) ** 2 + 1e-9)
    return edge(np.sqrt(height) - distance, pixels.pixel / wide)


def _midline(head: Head, pixels: Grid) -> Field:
    """The fold between the hemispheres, in front and behind."""
    return np.asarray(
        0.8
        * edge(0.5 * pixels.pixel + 0.01 - np.abs(head.u), pixels.pixel)
        * edge(np.abs(head.v) - 0.5, 0.2)
        * (head.r < 1),
        np.float32,
    )


def _paint(layers: list[tuple[Field, tuple[float, ...]]], shape: tuple[int, ...]) -> Field:
    """Layers over one another: ``[3, S, H, W]``."""
    canvas = np.full((_SEQUENCES, *shape), 0.02, np.float32)
    for cover, brightness in layers:
        for index, value in enumerate(brightness):
            canvas[index] += cover * (np.float32(value) - canvas[index])
    return canvas


def _add(canvas: Field, structure: Field, weights: tuple[float, ...]) -> None:
    for index, weight in enumerate(weights):
        canvas[index] += np.float32(weight) * structure


def _add_lookalikes(
    rng: np.random.Generator, canvas: Field, head: Head, pixels: Grid, difficulty: Difficulty
) -> None:
    """Caps at the ventricles, the rim of the cortex, dots in the white matter, vessels."""
    low, high = difficulty.contrast
    blurred = gaussian_filter(
        head.ventricles, (0, 1.6 * 0.03 / head.pixel, 1.6 * 0.03 / head.pixel)
    )
    horns = np.clip((np.abs(head.v) - 0.15) / 0.2, 0, 1)
    caps = np.clip(blurred * 2.2, 0, 1) * horns * head.tissue
    _add(canvas, 0.8 * rng.uniform(low, high) * caps, _GLIOSIS)
    arc = bump(((head.r - 0.92) / 0.09) ** 2) * np.maximum(
        head.along(wave(rng, range(1, 4), ANGLES)), 0
    )
    _add(canvas, 0.5 * rng.uniform(low, high) * arc * head.tissue, _GLIOSIS)
    for _ in range(rng.poisson(5)):
        size = rng.uniform(0.035, 0.075)
        brightness = rng.uniform(low, 1.2 * high)
        weights = tuple(brightness * weight for weight in _GLIOSIS)
        dot = Ball((size, size, rng.uniform(0.05, 0.10)), weights)
        _add_ball(rng, canvas, head, pixels, dot)
    for _ in range(rng.poisson(4)):
        size = rng.uniform(0.03, 0.05)
        vessel = Ball((size, size * rng.uniform(1, 3), rng.uniform(0.2, 0.6)), _VESSEL)
        _add_ball(rng, canvas, head, pixels, vessel)


def _add_ball(
    rng: np.random.Generator, canvas: Field, head: Head, pixels: Grid, ball: Ball
) -> None:
    """A soft ellipsoid somewhere in the brain, turned at random; a size under a pixel is one."""
    u, v, z = _place(rng, pixels, 0.85)
    turn = rng.uniform(0, math.pi)
    # Most of these are one slice tall: the others are not computed.
    near = np.abs(pixels.z[:, 0, 0] - z) < ball.size[2]
    if not near.any():
        return
    du, dv = head.u[near] - u, head.v[near] - v
    a = math.cos(turn) * du + math.sin(turn) * dv
    b = math.cos(turn) * dv - math.sin(turn) * du
    wide, long = (max(extent, 1.5 * head.pixel) for extent in ball.size[:2])
    squared = (a / wide) ** 2 + (b / long) ** 2 + ((pixels.z[near] - z) / ball.size[2]) ** 2
    hill = bump(squared) * head.tissue[near]
    for sequence, weight in zip(canvas, ball.weights, strict=True):
        sequence[near] += np.float32(weight) * hill


def _place(rng: np.random.Generator, pixels: Grid, reach: float) -> tuple[float, float, float]:
    """A point of the brain: uniform over the disc of radius ``reach`` and over the slices."""
    radius, angle = reach * math.sqrt(rng.uniform(0.04, 1)), rng.uniform(0, 2 * math.pi)
    height = rng.uniform(float(pixels.z.min()), float(pixels.z.max()))
    return radius * math.cos(angle), radius * math.sin(angle), height


def _add_lesions(
    rng: np.random.Generator, canvas: Field, head: Head, pixels: Grid, difficulty: Difficulty
) -> NDArray[np.uint8]:
    """One to three lesions in nine of ten patients; returns what the label says."""
    label = np.zeros(pixels.shape, bool)
    for _ in range(rng.choice(4, p=(0.1, 0.6, 0.2, 0.1))):
        seen, labelled = _lesion(rng, head, pixels, difficulty)
        _add(canvas, seen, _LESION)
        label |= labelled
    return label.astype(np.uint8)


def _lesion(
    rng: np.random.Generator, head: Head, pixels: Grid, difficulty: Difficulty
) -> tuple[Field, NDArray[np.bool_]]:
    """What a lesion adds to FLAIR, and the pixels that the label gives to it."""
    u, v, z = _place(rng, pixels, 0.75)
    size = math.exp(rng.uniform(math.log(0.22), math.log(0.54)))
    stretch = rng.uniform(0.75, 1.33)
    tall = rng.uniform(0.36, 0.74) * size
    contrast = rng.uniform(*difficulty.contrast)
    du, dv = head.u - u, head.v - v
    angle = (np.arctan2(dv, du) / (2 * np.pi) * ANGLES).astype(np.intp) % ANGLES
    outline = 1 + 0.13 * wave(rng, range(2, 7), ANGLES)
    flat = np.sqrt((du * stretch) ** 2 + (dv / stretch) ** 2) / (size * outline[angle])
    distance = np.sqrt(flat**2 + ((pixels.z - z) / tall) ** 2)
    softness = max(rng.uniform(0.25, 0.60), 1.5 * head.pixel / size)
    inside = edge(1 - distance, softness) * head.tissue
    mottle = 1 + 0.20 * smooth(rng, pixels.shape, (3, 10, 10))
    hand = 1 + difficulty.jitter * (wave(rng, range(2, 8), ANGLES)[angle] + rng.standard_normal())
    labelled = (distance < hand) & (head.tissue > 0.5)
    return contrast * inside * mottle, labelled


def _scan(rng: np.random.Generator, canvas: Field, pixels: Grid) -> NDArray[np.uint8]:
    """What the scanner makes of it: blur, the coil's field, texture, noise, eight bits."""
    blur = 0.45 * pixels.shape[2] / 64
    field = 1 + 0.12 * smooth(rng, pixels.shape, (1, 2, 2))
    out = np.empty((pixels.shape[0], _SEQUENCES, *pixels.shape[1:]), np.uint8)
    for index, sequence in enumerate(canvas):
        texture = 1 + 0.05 * smooth(rng, pixels.shape, (4, 12, 12))
        signal = gaussian_filter(sequence, (0, blur, blur)) * texture * field
        noise = rng.standard_normal((2, *pixels.shape), dtype=np.float32) * np.float32(0.035)
        # A magnitude image: noise enters both quadratures, so air is Rayleigh and never negative.
        magnitude = np.sqrt((signal + noise[0]) ** 2 + noise[1] ** 2)
        gain = rng.uniform(0.85, 1.10)
        out[:, index] = np.clip(np.rint(magnitude * (gain * 255)), 0, 255)
    return out
