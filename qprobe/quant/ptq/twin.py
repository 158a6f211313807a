"""A layer's forward product with another weight, through the layer's own code."""

import copy

from torch import Tensor, nn

from qprobe.quant.products import Setup


def twin(layer: nn.Module, weight: Tensor, setup: Setup | None = None) -> nn.Module:
    """A layer that shares everything with ``layer`` but its weight, its bias and its setup.

    It has no bias and no hooks that would run: call its ``forward``. ``setup`` is for a layer under
    a recipe. Strides, padding modes and groups are those of the layer, whatever they are.
    """
    made = copy.copy(layer)
    vars(made)["_parameters"] = {"weight": weight, "bias": None}
    if setup is not None:
        made.setup = setup  # type: ignore[assignment]
    return made
