"""Layers that are a linear or a convolution by their class, and compute something of their own."""

import inspect
from typing import Final

from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

#: What stands before the kind of such a layer.
OWN: Final = "own_"
#: Where the forwards are that multiply an input by a weight and do nothing else.
_PLAIN: Final = ("torch.nn.modules.", "qprobe.quant.")
_MULTIPLIES: Final = (nn.Linear, nn.modules.conv._ConvNd)  # noqa: SLF001


def computes_its_own(module: nn.Module) -> bool:
    """Whether a linear or convolution may compute something else than its class's product.

    Either a subclass (an adapter, a layer that quantizes) has a ``forward`` of its own, or the
    weight is a tensor that another library has made to mean something. What it computes cannot be
    told from outside: numbers about operands would be about a product that nobody computes. A
    forward that a library has only wrapped, to move data about, is still that of the class.

    >>> class Scaled(nn.Linear):
    ...     def forward(self, x):
    ...         return 2 * super().forward(x)
    >>> computes_its_own(Scaled(2, 2)), computes_its_own(nn.Linear(2, 2))
    (True, False)
    """
    if not isinstance(module, _MULTIPLIES):
        return False
    bound = inspect.unwrap(module.forward)
    forward = getattr(bound, "__func__", bound)
    return not str(forward.__module__).startswith(_PLAIN) or keeps_its_own(module)


def keeps_its_own(module: nn.Module) -> bool:
    """Whether the weight is a tensor of another library; a shard is not."""
    weight = module._parameters.get("weight")  # noqa: SLF001 - one that is computed stays unread
    foreign = weight is not None and is_traceable_wrapper_subclass(weight)
    return foreign and not hasattr(weight, "to_local")
