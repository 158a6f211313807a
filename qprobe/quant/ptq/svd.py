"""Keep the weight's largest directions in high precision, and quantize what is left.

``y = x·Lᵀ + Q(x)·Q(w − L)ᵀ`` with L the best approximation of w of a low rank. The large singular
values make the weight's range; the remainder has less of it.

Reference: Li et al. 2025, "SVDQuant", eq. 5, without its smoothing of the activations.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.quant.layers import QuantizedLayer
from qprobe.quant.products import Quantizer, Role
from qprobe.quant.ptq.applied import Applied, quantized_layer, with_quantizer
from qprobe.quant.ptq.channels import Channels
from qprobe.quant.ptq.twin import twin
from qprobe.quant.quantize import Operand
from qprobe.quant.recipe import Gemm, QuantRecipe

RANK = 4


@dataclass(frozen=True, slots=True, eq=False)
class _Split:
    """Gives ``L + Q(w − L)`` for a weight; activations are as before."""

    base: Quantizer
    #: L in the weight's own shape.
    low: Tensor

    def __call__(
        self, x: Tensor, operand: Operand, role: Role, generator: torch.Generator | None
    ) -> Tensor:
        if role.gemm != "fprop" or role.operand != "w":
            return self.base(x, operand, role, generator)
        low = self.low.view(x.shape).to(torch.promote_types(x.dtype, torch.float32))
        return low + self.base(x.to(low.dtype) - low, operand, role, generator)


@dataclass(frozen=True, slots=True, eq=False)
class _LowBranch:
    """Adds ``(x − Q(x))·Lᵀ``, so that L's directions see x as it is; a forward hook.

    The layer itself gives ``Q(x)·(L + Q(w − L))ᵀ``, whose backward pass is that of any quantized
    weight; this part is what the low-rank branch gains from high precision, and has no gradient.
    """

    split: _Split

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], y: Tensor
    ) -> Tensor | None:
        setup = getattr(layer, "setup", None)
        if not isinstance(layer, QuantizedLayer) or setup is None:
            return None
        if setup.quantizer is not self.split or setup.recipe.fprop.a is None:
            return None
        forward = replace(setup.recipe, dgrad=Gemm(), wgrad=Gemm())
        only_x = replace(forward, fprop=replace(setup.recipe.fprop, b=None))
        with torch.no_grad():
            exact = self._product(layer, replace(forward, fprop=Gemm()))(*args, **kwargs)
            gained = exact - self._product(layer, only_x)(*args, **kwargs)
        return y + gained

    def _product(self, layer: QuantizedLayer, recipe: QuantRecipe) -> Callable[..., Tensor]:
        """The layer's forward pass with L for a weight, no bias and another recipe."""
        low = self.split.low.to(layer.get_parameter("weight").dtype)
        setup = replace(layer.setup, recipe=recipe, quantizer=self.split.base)
        return twin(layer, low, setup).forward


def svd(model: nn.Module, path: str, *, rank: int = RANK) -> Applied:
    """Keep the best approximation of ``rank`` of the weight of ``path`` in high precision.

    A convolution's weight is the matrix of its output channels by input channels and taps, each
    group for itself. No parameter changes: state dicts are those of the plain model. The split is
    that of the weight at this moment; apply anew after training steps.
    """
    layer = quantized_layer(model, path)
    channels = Channels.of(layer, path)
    if rank < 1:
        raise InputError(f"the rank is a whole number from 1 on, got {rank}.")
    low = low_rank(layer.get_parameter("weight").detach(), channels, rank)
    split = _Split(layer.setup.quantizer, low)
    restore = with_quantizer(layer, path, split)
    handle = layer.register_forward_hook(_LowBranch(split), prepend=True, with_kwargs=True)

    def undo() -> None:
        restore()
        handle.remove()

    return Applied("svd", path, undo)


def low_rank(weight: Tensor, channels: Channels, rank: int) -> Tensor:
    """The best approximation of ``weight`` of ``rank`` in each group, in the weight's shape."""
    view = weight.view(channels.view).to(torch.float64)
    if not channels.conv:
        view = view.unsqueeze(0)
    if channels.inputs_first:
        view = view.transpose(1, 2)
    u, s, vh = torch.linalg.svd(view.flatten(2), full_matrices=False)
    low = (u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :]
    low = low.view(view.shape)
    if channels.inputs_first:
        low = low.transpose(1, 2)
    shaped: Tensor = low.reshape(weight.shape)
    return shaped
