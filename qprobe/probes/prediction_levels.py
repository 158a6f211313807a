"""How many different probabilities quantization leaves of a model's output."""

from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.probes.base import Field, SiteView
from qprobe.quant import catalogue
from qprobe.quant.layers import kernel_of
from qprobe.quant.products import Products, Setup
from qprobe.quant.recipe import QuantRecipe
from qprobe.records.schema import Role
from qprobe.sites import Site
from qprobe.stats import PredictionLevels, prediction_levels


class Activation(StrEnum):
    """How outputs become probabilities."""

    AUTO = "auto"
    """Sigmoid of one channel, softmax over several."""
    SIGMOID = "sigmoid"
    """Each output by itself: one class, or several labels."""
    SOFTMAX = "softmax"
    """Over the channels."""


class OutputLevels:
    """Effective levels of ``min(p, 1 − p)`` of the predictions, with and without quantization.

    Looks at the layer that makes the logits: at ``path``, else at the last linear or convolution
    that the model registers. Both sides have the same input: one is multiplied in high precision,
    the other under the recipe in force at that layer, or under the one that is asked for. A layer
    in high precision has no staircase of its own, so without a recipe there is nothing to see; what
    quantization elsewhere does takes a second pass of the model
    (:func:`qprobe.stats.prediction_levels`).
    """

    name = "prediction_levels"
    needs: frozenset[Role | Field] = frozenset({Role.INPUT, Role.WEIGHT})

    def __init__(
        self,
        path: str | None = None,
        *,
        activation: Activation | str = Activation.AUTO,
        recipe: str | QuantRecipe | None = None,
    ) -> None:
        if activation not in list(Activation):
            known = ", ".join(repr(one.value) for one in Activation)
            raise InputError(f"activation is one of {known}; got {activation!r}.")
        named = catalogue.recipe(recipe) if isinstance(recipe, str) else recipe
        self._path = path
        self._activation = Activation(activation)
        self._asked = named and Setup(recipe=named)

    def selects(self, site: Site) -> bool:
        multiplies = site.kind.startswith(("linear", "conv"))
        return site.role is Role.OUTPUT and multiplies and self._path in (None, site.path)

    def choose(self, sites: Sequence[Site]) -> Sequence[Site]:
        """The last of them."""
        return sites[-1:]

    def compares(self, site: Site, setup: Setup | None) -> bool:
        wanted = self._asked or setup
        return wanted is not None and wanted.recipe.fprop.quantizes

    def observe(self, view: SiteView) -> PredictionLevels | None:
        setup = self._asked or view.setup
        if setup is None or view.module is None or not setup.recipe.fprop.quantizes:
            return None
        y, w = view[Role.OUTPUT], view[Role.WEIGHT]
        if not y.numel():
            return None
        x, batched = view[Role.INPUT], y
        if x.dim() == w.dim() - 1:  # a single example
            x, batched = x.unsqueeze(0), y.unsqueeze(0)
        kernel, x = kernel_of(view.module, x.to(y.dtype), w, batched.shape)
        wide = torch.promote_types(y.dtype, torch.float32)
        call = Products(x=x.to(wide), w=w.to(wide), kernel=kernel, setup=_HIGH)
        before = _biased(call.fprop(), view.module, kernel.linear)
        after = batched
        if self._asked is not None:
            call = Products(x=call.x, w=call.w, kernel=kernel, setup=setup)
            after = _biased(call.fprop(), view.module, kernel.linear)
        axis = view.axis % y.dim() + batched.dim() - y.dim()
        return prediction_levels(self._even(before, axis), self._even(after, axis))

    def _even(self, logits: Tensor, axis: int) -> Tensor:
        """Probabilities; of a sigmoid the smaller of both, which floats hold more exactly."""
        wide = logits.double()
        sigmoid = self._activation is Activation.SIGMOID
        if sigmoid or (self._activation is Activation.AUTO and logits.shape[axis] == 1):
            return torch.sigmoid(-wide.abs())
        return wide.softmax(axis)


_HIGH = Setup(recipe=catalogue.BF16)


def _biased(y: Tensor, module: torch.nn.Module, linear: bool) -> Tensor:
    bias: Tensor | None = getattr(module, "bias", None)
    if bias is None:
        return y
    shape = (-1,) if linear else (-1, *[1] * (y.dim() - 2))
    return y + bias.to(y.dtype).view(shape)
