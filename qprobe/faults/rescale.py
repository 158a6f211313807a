"""Outliers: factors on the input of a layer that its weight or its output takes back."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qprobe.faults.fault import Example, Place, Traces, layer_of, more_than_one, quantized_layers
from qprobe.quant.catalogue import BF16
from qprobe.quant.layers import QuantizedLayer
from qprobe.quant.products import Setup
from qprobe.quant.ptq.applied import with_values
from qprobe.quant.ptq.channels import Channels
from qprobe.quant.ptq.twin import twin
from qprobe.records.schema import Role


@dataclass(frozen=True, slots=True, eq=False)
class _Gain:
    """Multiplies the input channels of a layer before anything else sees them."""

    channels: Channels
    factors: Tensor

    def __call__(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = args
        return (x * self.channels.on_input(self.factors.to(x)), *rest)


def layers(model: nn.Module, _: Example) -> list[str]:
    """Every quantized layer with a weight of its own."""
    return list(quantized_layers(model))


def scale_channels(place: Place, factors: Tensor, *, role: Role) -> Traces:
    """Multiply input channels and divide the weight's columns: the product stays."""
    layer = layer_of(place)
    channels = Channels.of(layer, place.path)
    weight = layer.get_parameter("weight")
    columns = channels.scaled_inputs(weight, 1.0 / factors.to(weight))
    handle = layer.register_forward_pre_hook(_Gain(channels, factors), prepend=True)
    return Traces(undo=(with_values({weight: columns}), handle.remove), roles=(role,))


def channel_outlier(place: Place) -> Traces:
    """One input channel becomes ``strength`` times as large, its weights as much smaller."""
    more_than_one(place, "factor")
    return scale_channels(place, _one_channel(place, place.strength), role=Role.INPUT)


def weight_outlier(place: Place) -> Traces:
    """The weights of one input channel become larger, the channel as much smaller."""
    more_than_one(place, "factor")
    return scale_channels(place, _one_channel(place, 1.0 / place.strength), role=Role.WEIGHT)


def _one_channel(place: Place, factor: float) -> Tensor:
    channels = Channels.of(layer_of(place), place.path)
    factors = torch.ones(channels.inputs, dtype=torch.float64)
    factors[place.drawn(channels.inputs)] = factor
    return factors


@dataclass(frozen=True, slots=True, eq=False)
class _Spike:
    """Adds ``strength`` times the largest magnitude to all channels of one position a sample."""

    channels: Channels
    signs: Tensor
    #: Where, as a share of the positions of a sample.
    at: float
    strength: float
    #: What was added in calls that are under way.
    added: list[Tensor] = field(default_factory=list)

    def __call__(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = args
        spike = torch.zeros_like(x)
        tokens = spike.movedim(-1 - self.channels.space, -1)
        # The first axis is the batch, unless an image came alone or rows are all there is.
        first = int(x.dim() > max(2, 1 + self.channels.space))
        shape = tokens.shape[first:-1]
        index = torch.unravel_index(torch.tensor(int(self.at * shape.numel())), shape)
        largest = x.detach().abs().amax() * self.strength
        tokens[(slice(None),) * first + tuple(index)] = self.signs.to(x) * largest
        self.added.append(spike)
        return (x + spike, *rest)

    def take_back(self, layer: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
        """Subtract what the spike became, in high precision: the layer is linear."""
        plain = Setup(recipe=BF16) if isinstance(layer, QuantizedLayer) else None
        weight = layer.get_parameter("weight")
        with torch.no_grad():
            became: Tensor = twin(layer, weight, plain).forward(self.added.pop(), *args[1:])
        return y - became


@dataclass(frozen=True, slots=True, eq=False)
class _TakeBack:
    """The forward hook that belongs to a :class:`_Spike`."""

    spike: _Spike

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
        return self.spike.take_back(layer, args, y)


def spatial_outlier(place: Place) -> Traces:
    """One token or voxel of each sample becomes ``strength`` times the largest magnitude.

    What that adds to the output is taken off again in high precision.
    """
    layer = layer_of(place)
    channels = Channels.of(layer, place.path)
    at = float(torch.rand((), generator=place.generator, dtype=torch.float64))
    spike = _Spike(channels, place.signs(channels.inputs), at, place.strength)
    before = layer.register_forward_pre_hook(spike, prepend=True)
    after = layer.register_forward_hook(_TakeBack(spike), prepend=True)
    return Traces(undo=(before.remove, after.remove), roles=(Role.INPUT,))
