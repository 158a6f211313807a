"""Changes that are no defect: whoever complains about them is wrong."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qprobe.faults.fault import Example, Place, Traces, layer_of, more_than_one, quantized_layers
from qprobe.faults.rescale import scale_channels
from qprobe.quant.ptq.applied import with_values
from qprobe.quant.ptq.channels import Channels
from qprobe.records.schema import Role


def ungrouped(model: nn.Module, _: Example) -> list[str]:
    """Layers in which every input channel meets every output channel."""
    layers = quantized_layers(model)
    return [path for path, layer in layers.items() if Channels.of(layer, path).groups == 1]


def power_of_two(place: Place) -> Traces:
    """The whole input becomes 2^``strength`` times as large, the weight as much smaller."""
    channels = Channels.of(layer_of(place), place.path)
    factors = torch.full((channels.inputs,), 2.0 ** round(place.strength), dtype=torch.float64)
    return scale_channels(place, factors, role=Role.INPUT)


def mild_gain(place: Place) -> Traces:
    """Every input channel gets a factor between 1/``strength`` and ``strength``."""
    more_than_one(place, "factor")
    channels = Channels.of(layer_of(place), place.path)
    drawn = torch.rand(channels.inputs, generator=place.generator, dtype=torch.float64)
    return scale_channels(place, place.strength ** (2.0 * drawn - 1.0), role=Role.INPUT)


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """Puts the input channels of a layer in another order."""

    axis: int
    order: Tensor

    def __call__(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = args
        return (x.index_select(self.axis, self.order.to(x.device)), *rest)


def permuted(place: Place) -> Traces:
    """A share ``strength`` of the input channels change places, and their weights with them."""
    layer = layer_of(place)
    channels = Channels.of(layer, place.path)
    order = torch.arange(channels.inputs)
    moved = torch.randperm(len(order), generator=place.generator)
    moved = moved[: round(place.strength * len(order))]
    order[moved] = moved[torch.randperm(len(moved), generator=place.generator)]
    weight = layer.get_parameter("weight")
    axis = 0 if channels.inputs_first else 1
    columns = weight.detach().index_select(axis, order.to(weight.device))
    hook = _Order(-1 - channels.space, order)
    handle = layer.register_forward_pre_hook(hook, prepend=True)
    undo = (with_values({weight: columns}), handle.remove)
    return Traces(undo=undo, roles=(Role.INPUT, Role.WEIGHT))


def weight_noise(place: Place) -> Traces:
    """Weights move by ``strength`` of their own size: as in a few steps of training."""
    weight = layer_of(place).get_parameter("weight")
    drawn = torch.randn(weight.shape, generator=place.generator).to(weight)
    size = weight.detach().square().mean().sqrt() * place.strength
    return Traces(undo=(with_values({weight: weight + drawn * size}),), roles=(Role.WEIGHT,))
