"""Random changes of image and mask together, in plain torch.

A sample's change is drawn from a generator of its own and applied by operations that treat every
sample alone, so it has the same bits whatever else is in the batch. Brightness and contrast change
the image only; the mask follows every move by nearest neighbour. Volumes are moved within their
slices and may be flipped along all three axes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from qprobe.errors import InputError

_DRAWS = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How often (probabilities) and how far (limits, both ways) a sample is changed.

    ``flip`` holds for each axis on its own. ``shift`` is in widths and heights, ``scale`` in
    magnifications above or below 1, ``rotate_degrees`` to either side. ``contrast`` is relative,
    ``brightness`` in ranges (maximum − minimum) of the image.
    """

    flip: float = 0.5
    move: float = 0.5
    shift: float = 0.0625
    scale: float = 0.1
    rotate_degrees: float = 15.0
    tone: float = 0.5
    contrast: float = 0.2
    brightness: float = 0.2

    def __post_init__(self) -> None:
        for name in ("flip", "move", "tone"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"the augmentation probability {name!r} is {getattr(self, name)}; "
                    "give a number from 0 to 1."
                )
        for name in ("shift", "scale", "rotate_degrees", "contrast", "brightness"):
            limit = getattr(self, name)
            if not 0 <= limit < (1 if name in ("scale", "contrast") else math.inf):
                raise InputError(
                    f"the augmentation limit {name!r} is {limit}; give 0 or more, and less than 1 "
                    "for 'scale' and 'contrast'."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happens to one sample.

    ``flip`` says which of the last axes are reversed (columns, rows, slices). The content is
    magnified by ``scale``, turned counter-clockwise by ``radians`` about the centre, then shifted
    by ``(right, down)`` in widths and heights. The image becomes ``(x − m)·contrast + m +
    brightness·(max − min)``, m half-way between its minimum and maximum.
    """

    flip: tuple[bool, bool, bool] = (False, False, False)
    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    radians: float = 0.0
    contrast: float = 1.0
    brightness: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether pixels land between pixels."""
        return self.shift != (0.0, 0.0) or self.scale != 1.0 or self.radians != 0.0

    @property
    def tones(self) -> bool:
        """Whether brightness or contrast change."""
        return self.contrast != 1.0 or self.brightness != 0.0


def draw(config: AugmentConfig, generator: torch.Generator) -> Change:
    """One sample's change; takes the same number of draws whatever the config is."""
    u = torch.rand(_DRAWS, generator=generator, dtype=torch.float64).tolist()
    flip = (u[0] < config.flip, u[1] < config.flip, u[2] < config.flip)
    right, down, scale, turn, contrast, brightness = (2 * value - 1 for value in u[5:])
    move, tone = float(u[3] < config.move), float(u[4] < config.tone)
    return Change(
        flip=flip,
        shift=(move * right * config.shift, move * down * config.shift),
        scale=1 + move * scale * config.scale,
        radians=move * turn * math.radians(config.rotate_degrees),
        contrast=1 + tone * contrast * config.contrast,
        brightness=tone * brightness * config.brightness,
    )


def apply(images: Tensor, masks: Tensor, changes: Sequence[Change]) -> tuple[Tensor, Tensor]:
    """Change images ``[B, C, ...]`` and masks ``[B, ...]``, sample by sample."""
    if not len(images) == len(masks) == len(changes):
        raise InputError(
            f"{len(changes)} changes were given for {len(images)} images and {len(masks)} masks; "
            "give one each."
        )
    images, masks = _flip(images, masks, changes)
    images, masks = _move(images, masks, changes)
    return _tone(images, changes), masks


def _flip(images: Tensor, masks: Tensor, changes: Sequence[Change]) -> tuple[Tensor, Tensor]:
    for axis in range(masks.dim() - 1):
        chosen = torch.tensor([change.flip[axis] for change in changes])
        if chosen.any():
            where = chosen.view(-1, *(1,) * (images.dim() - 1))
            images = torch.where(where, images.flip(-1 - axis), images)
            masks = torch.where(where[:, 0], masks.flip(-1 - axis), masks)
    return images, masks


def _move(images: Tensor, masks: Tensor, changes: Sequence[Change]) -> tuple[Tensor, Tensor]:
    chosen = [i for i, change in enumerate(changes) if change.moves]
    if not chosen:
        return images, masks
    height, width = images.shape[-2:]
    grids = torch.stack([_grid(changes[i], height, width) for i in chosen])
    picked, picked_masks = images[chosen], masks[chosen]
    # Slices of a volume are moved alike, so they can stand where the channels do.
    flat = picked.reshape(len(chosen), -1, height, width)
    flat_masks = picked_masks.reshape(len(chosen), -1, height, width).to(images.dtype)
    images, masks = images.clone(), masks.clone()
    images[chosen] = _sample(flat, grids, "bilinear").view_as(picked)
    masks[chosen] = _sample(flat_masks, grids, "nearest").view_as(picked_masks).to(masks.dtype)
    return images, masks


def _sample(images: Tensor, grids: Tensor, mode: str) -> Tensor:
    return F.grid_sample(images, grids, mode, padding_mode="reflection", align_corners=False)


def _grid(change: Change, height: int, width: int) -> Tensor:
    """Where each output pixel is read from, ``[H, W, 2]`` in the units of ``grid_sample``."""
    x = torch.arange(width) - (width - 1) / 2 - change.shift[0] * width
    y = torch.arange(height)[:, None] - (height - 1) / 2 - change.shift[1] * height
    cosine, sine = math.cos(change.radians) / change.scale, math.sin(change.radians) / change.scale
    # In pixels, so that a turn is a turn also where height and width differ.
    return torch.stack(
        [(cosine * x - sine * y) * (2 / width), (sine * x + cosine * y) * (2 / height)], dim=-1
    )


def _tone(images: Tensor, changes: Sequence[Change]) -> Tensor:
    if not any(change.tones for change in changes):
        return images
    axes = tuple(range(1, images.dim()))
    # The middle of the range and not the mean: a minimum does not depend on the order of a sum.
    low, high = images.amin(axes, keepdim=True), images.amax(axes, keepdim=True)
    middle = (low + high) / 2
    contrast = _column([change.contrast for change in changes], images)
    brightness = _column([change.brightness for change in changes], images)
    changed = (images - middle) * contrast + middle + brightness * (high - low)
    untouched = _column([float(not change.tones) for change in changes], images).bool()
    return torch.where(untouched, images, changed)


def _column(values: Sequence[float], images: Tensor) -> Tensor:
    return images.new_tensor(values).view(-1, *(1,) * (images.dim() - 1))
