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
    axes = masks.dim() - 1
    kinds = [change.flip[:axes] for change in changes]
    images, masks = images.clone(), masks.clone()
    # Samples that flip alike go together: two axes make three kinds of flip, not sixteen.
    for kind in {kind for kind in kinds if any(kind)}:
        chosen = [i for i, other in enumerate(kinds) if other == kind]
        reverse = [-1 - axis for axis in range(axes) if kind[axis]]
        images[chosen] = images[chosen].flip(reverse)
        masks[chosen] = masks[chosen].flip(reverse)
    return images, masks


def _move(images: Tensor, masks: Tensor, changes: Sequence[Change]) -> tuple[Tensor, Tensor]:
    chosen = [i for i, change in enumerate(changes) if change.moves]
    if not chosen:
        return images, masks
    height, width = images.shape[-2:]
    grids = _grids([changes[i] for i in chosen], height, width)
    picked, picked_masks = images[chosen], masks[chosen]
    # Slices of a volume are moved alike, so they can stand where the channels do.
    flat = picked.reshape(len(chosen), -1, height, width)
    flat_masks = picked_masks.reshape(len(chosen), -1, height, width).to(images.dtype)
    images[chosen] = _sample(flat, grids, "bilinear").view_as(picked)
    masks[chosen] = _sample(flat_masks, grids, "nearest").view_as(picked_masks).to(masks.dtype)
    return images, masks


def _sample(images: Tensor, grids: Tensor, mode: str) -> Tensor:
    return F.grid_sample(images, grids, mode, padding_mode="reflection", align_corners=False)


def _grids(changes: Sequence[Change], height: int, width: int) -> Tensor:
    """Where each output pixel is read from, ``[B, H, W, 2]`` in the units of ``grid_sample``."""
    # In pixels, so that a turn is a turn also where height and width differ.
    rows = [
        (
            math.cos(change.radians) / change.scale,
            math.sin(change.radians) / change.scale,
            (width - 1) / 2 + change.shift[0] * width,
            (height - 1) / 2 + change.shift[1] * height,
        )
        for change in changes
    ]
    cosine, sine, right, down = torch.tensor(rows).T[:, :, None, None]
    x = torch.arange(width) - right
    y = torch.arange(height)[:, None] - down
    grids = torch.empty(len(changes), height, width, 2)
    torch.sub((cosine * x) * (2 / width), (sine * y) * (2 / width), out=grids[..., 0])
    torch.add((sine * x) * (2 / height), (cosine * y) * (2 / height), out=grids[..., 1])
    return grids


def _tone(images: Tensor, changes: Sequence[Change]) -> Tensor:
    if not any(change.tones for change in changes):
        return images
    # The middle of the range and not the mean: a minimum does not depend on the order of a sum.
    # Two reductions: aminmax over an axis is not vectorised and takes ten times as long.
    low, high = images.flatten(1).amin(1), images.flatten(1).amax(1)
    contrast = images.new_tensor([change.contrast for change in changes])
    brightness = images.new_tensor([change.brightness for change in changes])
    offset = (low + high) / 2 * (1 - contrast) + brightness * (high - low)
    column = (-1, *(1,) * (images.dim() - 1))
    # A contrast of 1 and an offset of 0 leave every bit of a sample whose tone does not change.
    return (images * contrast.view(column)).add_(offset.view(column))
