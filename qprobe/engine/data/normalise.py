"""Brightness to the scale a network expects."""

from enum import StrEnum

import torch
from torch import Tensor

from qprobe.errors import InputError

# Mean and deviation of the ImageNet training images, for red, green, blue within [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Below this deviation a channel is constant, and noise of the arithmetic is not worth amplifying.
_CONSTANT = 1e-6


class Normalisation(StrEnum):
    """Which numbers are subtracted and divided by."""

    IMAGENET = "imagenet"
    PER_SAMPLE = "per-sample"
    NONE = "none"


def default_for(channels: int, spatial_axes: int) -> Normalisation:
    """ImageNet's numbers for slices with three channels, each sample's own otherwise.

    >>> default_for(3, 2).value, default_for(1, 3).value
    ('imagenet', 'per-sample')
    """
    three = channels == 3 and spatial_axes == 2
    return Normalisation.IMAGENET if three else Normalisation.PER_SAMPLE


def normalise(images: Tensor, how: Normalisation) -> Tensor:
    """Normalise ``[B, C, ...]``.

    ``imagenet``: ``(x − mean_c) / std_c`` with the constants above, images within [0, 1];
    ``per-sample``: the same with mean and deviation (divisor n) of each sample and channel, so a
    constant channel becomes 0.
    """
    if how is Normalisation.NONE:
        return images
    if how is Normalisation.PER_SAMPLE:
        # Sample by sample: a reduction over a batch may add in another order than over one sample.
        return torch.stack([_own(image) for image in images]) if len(images) else images
    if images.shape[1] != 3:
        raise InputError(
            f"ImageNet's normalisation is for 3 channels and the images have {images.shape[1]}; "
            "choose 'per-sample'."
        )
    shape = (1, 3, *(1,) * (images.dim() - 2))
    mean = images.new_tensor(IMAGENET_MEAN).view(shape)
    return (images - mean) / images.new_tensor(IMAGENET_STD).view(shape)


def _own(image: Tensor) -> Tensor:
    axes = tuple(range(1, image.dim()))
    deviation, mean = torch.std_mean(image, axes, correction=0, keepdim=True)
    return torch.where(deviation > _CONSTANT, (image - mean) / deviation.clamp_min(_CONSTANT), 0.0)
