"""Defects of the quantizer: scales, axes, bits and rounding."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from qprobe.errors import InputError
from qprobe.faults import quantizers
from qprobe.faults.fault import (
    Example,
    Place,
    Traces,
    a_share,
    layer_of,
    more_than_one,
    quantized_layers,
)
from qprobe.quant.formats import IntFormat
from qprobe.quant.ptq.applied import with_quantizer
from qprobe.quant.ptq.channels import Channels
from qprobe.quant.recipe import Gemm
from qprobe.quant.rounding import Rounding
from qprobe.quant.spec import Granularity, QuantSpec
from qprobe.records.schema import Role

_ROLES = {"x": Role.INPUT, "w": Role.WEIGHT, "dy": Role.GRAD_OUTPUT}
_FORWARD = (("fprop", "x"), ("fprop", "w"))
_BACKWARD = (("dgrad", "dy"), ("wgrad", "dy"))


def _specs(gemm: Gemm, operand: str) -> QuantSpec | None:
    how = gemm.b if operand in ("w",) else gemm.a
    return how if isinstance(how, QuantSpec) else None


def _with(model: nn.Module, at: tuple[str, str], asked: Callable[[QuantSpec], bool]) -> list[str]:
    """Layers whose operand ``at`` is quantized, not rotated, and as asked."""
    found = []
    for path, layer in quantized_layers(model).items():
        gemm: Gemm = getattr(layer.recipe, at[0])
        spec = _specs(gemm, at[1])
        if spec is not None and gemm.hadamard is None and asked(spec):
            found.append(path)
    return found


def forward(model: nn.Module, _: Example) -> list[str]:
    """Layers that quantize their activations."""
    return _with(model, ("fprop", "x"), lambda _: True)


def forward_blocks(model: nn.Module, _: Example) -> list[str]:
    """Layers with weights in blocks under a factor per tensor."""
    return _with(model, ("fprop", "w"), quantizers.has_blocks)


def backward_blocks(model: nn.Module, _: Example) -> list[str]:
    """Layers that quantize their gradients in blocks for both products."""
    both = [set(_with(model, at, quantizers.has_blocks)) for at in _BACKWARD]
    return [path for path in quantized_layers(model) if all(path in some for some in both)]


def stochastic(model: nn.Module, _: Example) -> list[str]:
    """Layers whose recipe rounds gradients stochastically."""
    found = []
    for path, layer in quantized_layers(model).items():
        specs = (_specs(layer.recipe.dgrad, "dy"), _specs(layer.recipe.wgrad, "dy"))
        if any(spec is not None and spec.rounding is Rounding.STOCHASTIC for spec in specs):
            found.append(path)
    return found


def with_axes(model: nn.Module, _: Example) -> list[str]:
    """Layers whose weight has scales along an axis, rather than one for all or for tiles."""

    def asked(spec: QuantSpec) -> bool:
        if isinstance(spec.format, IntFormat):
            return spec.granularity is not Granularity.TENSOR
        return spec.tile.value == "1d"

    return _with(model, ("fprop", "w"), asked)


def _tampered(place: Place, at: tuple[tuple[str, str], ...], how: quantizers.How) -> Traces:
    layer = layer_of(place)
    quantizer = quantizers.Tampered(layer.setup.quantizer, frozenset(at), how)
    undo = with_quantizer(layer, place.path, quantizer)
    roles = tuple(dict.fromkeys(_ROLES[operand] for _, operand in at))
    return Traces(undo=(undo,), roles=roles)


def missing_scale(place: Place) -> Traces:
    """Weights lose the factor of their tensor; it is the constant ``strength`` instead."""
    more_than_one(place, "constant")
    return _tampered(place, (("fprop", "w"),), quantizers.constant_scale(place.strength))


def missing_gradient_scale(place: Place) -> Traces:
    """Gradients lose the factor of their tensor; it is the constant ``strength`` instead."""
    if not place.strength > 0:
        raise InputError(f"the strength is a constant above 0, got {place.strength}.")
    return _tampered(place, _BACKWARD, quantizers.constant_scale(place.strength))


def saturating_scale(place: Place) -> Traces:
    """Activations are cut off at 1/``strength`` of what their scale should hold."""
    more_than_one(place, "factor")
    return _tampered(place, (("fprop", "x"),), quantizers.saturating(place.strength))


def stale_scale(place: Place) -> Traces:
    """Activations have scales of a time when they were ``strength`` times as large."""
    more_than_one(place, "factor")
    return _tampered(place, (("fprop", "x"),), quantizers.stale(place.strength))


def few_bits(place: Place) -> Traces:
    """Both forward operands have ``strength`` bits less."""
    if place.strength not in (1.0, 2.0):
        raise InputError(
            f"the strength is the number of bits removed, 1 or 2; got {place.strength}."
        )
    return _tampered(place, _FORWARD, quantizers.few_bits(int(place.strength)))


def noise(place: Place) -> Traces:
    """Activations get ``strength`` times as much noise as rounding gives, without a pattern."""
    seed = place.drawn(2**31)
    return _tampered(place, (("fprop", "x"),), quantizers.noisy(place.strength, seed))


def nearest_gradient(place: Place) -> Traces:
    """``strength`` of the gradient's elements are rounded to nearest, always the same ones."""
    a_share(place, "share of elements that are rounded to nearest")
    seed = place.drawn(2**31)
    return _tampered(place, _BACKWARD, quantizers.nearest(place.strength, seed))


def transposed_scales(place: Place) -> Traces:
    """``strength`` of the weight's rows are read back with the scales of its other axis."""
    a_share(place, "share of rows that are read back wrongly")
    layer = layer_of(place)
    channels = Channels.of(layer, place.path)
    spec = _specs(layer.recipe.fprop, "w")
    conv = int(channels.conv)
    inputs = channels.contraction
    outputs = 2 * conv + 1 - inputs
    # Blocks lie along the inputs; an integer's channels are its outputs, so it is the inverse.
    integers = spec is not None and isinstance(spec.format, IntFormat)
    axis = (*([0] if conv else []), inputs) if integers else outputs
    sizes = [1] * len(channels.view)
    sizes[outputs] = channels.view[outputs]
    count = round(place.strength * sizes[outputs])
    rows = torch.zeros(sizes[outputs], dtype=torch.bool)
    rows[torch.randperm(len(rows), generator=place.generator)[:count]] = True
    how = quantizers.transposed_scales(axis, rows.view(sizes))
    return _tampered(place, (("fprop", "w"),), how)


def reseeded(place: Place) -> Traces:
    """Another stream of random numbers for stochastic rounding: no defect."""
    layer = layer_of(place)
    before = layer.setup
    device = None if before.generator is None else before.generator.device
    generator = torch.Generator(device or "cpu").manual_seed(place.drawn(2**31))
    layer.setup = replace(before, generator=generator)

    def undo() -> None:
        layer.setup = before

    return Traces(undo=(undo,), roles=(Role.GRAD_OUTPUT,))
