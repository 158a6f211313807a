"""Move the range of activations into the weight: one factor an input channel.

``y = x·wᵀ = (x / s)·(w · s)ᵀ`` for any s > 0. With ``s_j = max|x_j|^α / max|w_j|^(1−α)`` an outlier
channel of x gives a share of its range to the weight, which has room for it.

Reference: Xiao et al. 2023, "SmoothQuant", eq. 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.quant.products import Quantizer, Role
from qprobe.quant.ptq.applied import (
    Applied,
    layer_at,
    quantized_layer,
    with_quantizer,
    with_values,
)
from qprobe.quant.ptq.channels import Channels, is_norm
from qprobe.quant.quantize import Operand


@dataclass(frozen=True, slots=True, eq=False)
class _Smoothed:
    """Quantizes ``x / s`` and ``w · s``, and gives them back in the basis they came in."""

    base: Quantizer
    channels: Channels
    scale: Tensor

    def __call__(
        self, x: Tensor, operand: Operand, role: Role, generator: torch.Generator | None
    ) -> Tensor:
        if role.gemm != "fprop":
            return self.base(x, operand, role, generator)
        dtype = torch.promote_types(x.dtype, torch.float32)
        scale = self.scale.to(x.device, dtype)
        factor = self.channels.on_operand(1 / scale if role.operand == "x" else scale, role.operand)
        return self.base(x.to(dtype) * factor, operand, role, generator) / factor


def factors(x_amax: Tensor, w_amax: Tensor, alpha: float = 0.5) -> Tensor:
    """``max|x_j|^α / max|w_j|^(1−α)``; 1 where either of a channel's maxima is 0.

    >>> factors(torch.tensor([16.0, 1.0, 0.0]), torch.tensor([0.25, 1.0, 1.0]))
    tensor([8., 1., 1.])
    """
    known = (x_amax > 0) & (w_amax > 0)
    return torch.where(known, x_amax**alpha / w_amax ** (1 - alpha), 1.0)


def smooth(
    model: nn.Module, path: str, amax: Tensor, *, alpha: float = 0.5, into: str | None = None
) -> Applied:
    """Smooth the layer ``path``; :func:`~qprobe.quant.ptq.input_amax` gives ``amax [inputs]``.

    Without ``into`` the factors stay an explicit scaling of the layer's operands: no parameter
    changes, and state dicts are those of the plain model. With ``into``, the path of the norm,
    linear or convolution whose output goes through nothing but this layer (or through activations
    that commute with positive factors, such as ReLU, before it), they are folded into the
    parameters of both, which are then those of another model with the same function; the layer
    need not be under a recipe.
    """
    layer = layer_at(model, path)
    channels = Channels.of(layer, path)
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha is a share between 0 and 1, got {alpha}.")
    if amax.shape != (channels.inputs,) or not bool(torch.isfinite(amax).all()):
        raise InputError(
            f"{path} has {channels.inputs} input channels and needs as many finite amax, got "
            f"shape {tuple(amax.shape)}; take them from qprobe.quant.ptq.input_amax."
        )
    weight = layer.get_parameter("weight")
    w_amax = channels.input_absmax(weight).to(torch.float64)
    scale = factors(amax.to(w_amax), w_amax, alpha)
    if into is not None:
        return migrate(model, into, [path], scale, transform="smooth")
    quantized = quantized_layer(model, path)
    quantizer = _Smoothed(quantized.setup.quantizer, channels, scale)
    return Applied("smooth", path, with_quantizer(quantized, path, quantizer))


def migrate(
    model: nn.Module,
    producer: str,
    consumers: Sequence[str],
    scale: Tensor,
    transform: str = "migrate",
) -> Applied:
    """Divide the output channels of ``producer`` by ``scale`` and multiply the columns after it.

    The function stays where ``consumers`` are all that read the producer's output; that is the
    caller's promise. Powers of two change no bit of it, other factors the last ones.
    """
    source = layer_at(model, producer)
    values = _divided(source, producer, scale)
    for path in consumers:
        layer = layer_at(model, path)
        channels = Channels.of(layer, path)
        if channels.inputs != len(scale):
            raise InputError(
                f"{path} has {channels.inputs} input channels and {producer} was given factors "
                f"for {len(scale)}; name the layer that reads {producer}."
            )
        weight = layer.get_parameter("weight")
        if weight in values:
            raise InputError(f"{path} and {producer} share a weight, which cannot be moved.")
        values[weight] = channels.scaled_inputs(weight, scale.to(weight))
    return Applied(transform, consumers[0], with_values(values))


def _divided(source: nn.Module, path: str, scale: Tensor) -> dict[Tensor, Tensor]:
    """The parameters of a producer whose output channels are divided by ``scale``."""
    weight = source._parameters.get("weight")  # noqa: SLF001  (a parametrized one is none)
    if weight is None:
        raise InputError(f"{path} has no weight of its own to fold factors into; leave into= out.")
    if is_norm(source):
        outputs, divided = weight.numel(), weight.detach() / scale.to(weight).view_as(weight)
    else:
        channels = Channels.of(source, path)
        outputs = channels.outputs
        if outputs == len(scale):
            divided = channels.scaled_outputs(weight, 1 / scale.to(weight))
    if outputs != len(scale):
        raise InputError(f"{path} has {outputs} output channels, the factors are {len(scale)}.")
    values: dict[Tensor, Tensor] = {weight: divided}
    bias = source._parameters.get("bias")  # noqa: SLF001
    if bias is not None:
        values[bias] = bias.detach() / scale.to(bias).view_as(bias)
    return values
