"""Images and masks to the size a network is trained at."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_LINEAR = {2: "bilinear", 3: "trilinear"}


def resize_image(image: Tensor, size: Sequence[int]) -> Tensor:
    """``[C, ...]`` to ``[C, *size]``: averages over the area where an axis shrinks, interpolates
    linearly where it grows. The picture is stretched if the proportions differ.

    >>> resize_image(torch.tensor([[[0., 2.], [4., 6.]]]), (1, 1)).item()
    3.0
    """
    target = tuple(size)
    smaller = tuple(min(old, new) for old, new in zip(image.shape[1:], target, strict=True))
    out = image[None]
    if smaller != out.shape[2:]:
        out = F.interpolate(out, smaller, mode="area")
    if target != smaller:
        out = F.interpolate(out, target, mode=_LINEAR[len(target)], align_corners=False)
    return out[0]


def resize_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Class numbers ``[...]`` to ``size``: each voxel takes the class at its centre.

    >>> resize_mask(torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8), (2, 4)).tolist()
    [[0, 0, 1, 1], [2, 2, 3, 3]]
    """
    if tuple(size) == tuple(mask.shape):
        return mask
    out = F.interpolate(mask[None, None].float(), tuple(size), mode="nearest-exact")
    return out[0, 0].to(torch.uint8)
