"""Layers that return a view of their own result."""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

#: Layers that compute on another shape.
_RESHAPING = (_NormBase, nn.modules.conv._ConvNd)  # noqa: SLF001


def private_base(tensor: Tensor, module: nn.Module) -> Tensor | None:
    """The tensor of which an output is only another shape, such as that of an instance norm.

    An activation that overwrites the output takes the hooks of a view away, and not of its base.
    """
    return base_of(tensor) if reshapes(module) else None


def reshapes(module: nn.Module) -> bool:
    """Whether the layer may compute on another shape than that of its output."""
    return isinstance(module, _RESHAPING)


def base_of(tensor: Tensor) -> Tensor | None:
    """The tensor that a tensor of the same elements is a view of."""
    base = tensor._base  # noqa: SLF001
    if base is None or base.numel() != tensor.numel() or not base.requires_grad:
        return None
    return base if base.is_contiguous() and tensor.is_contiguous() else None
