"""Which axes of a layer's weight and of its input are its input channels, and its output channels.

Layers differ in where they keep channels: a linear's weight is ``[out, in]``, a convolution's
``[out, in/groups, *taps]``, a transposed one's ``[in, out/groups, *taps]``, and that of the
``Conv1D`` of transformers ``[in, out]``. What moves a factor from one layer to the next, a
transform or a planted fault, asks here.
"""

from dataclasses import dataclass
from math import prod

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from qprobe.errors import InputError
from qprobe.quant.transposed import stores_transposed

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """The channels of one linear or convolution.

    ``view`` is the weight with its groups as an axis of their own where it has groups:
    ``[out, in]``, ``[groups, out, in, *taps]`` or, transposed, ``[groups, in, out, *taps]``.
    """

    inputs: int
    outputs: int
    groups: int
    #: Axes of space.
    space: int
    #: Whether the weight has its input channels first.
    inputs_first: bool
    view: tuple[int, ...]

    @classmethod
    def of(cls, layer: nn.Module, path: str) -> "Channels":
        """The channels of ``layer``; ``path`` is for the error where it has none."""
        weight = layer._parameters.get("weight")  # noqa: SLF001  (a parametrized one is none)
        if isinstance(layer, nn.Linear) and weight is not None:
            shape = (layer.out_features, layer.in_features)
            return cls._linear(*shape, inputs_first=False)
        if stores_transposed(layer) and weight is not None:
            return cls._linear(weight.shape[1], weight.shape[0], inputs_first=True)
        if isinstance(layer, _ConvNd) and weight is not None:
            groups = layer.groups
            return cls(
                inputs=layer.in_channels,
                outputs=layer.out_channels,
                groups=groups,
                space=weight.dim() - 2,
                inputs_first=layer.transposed,
                view=(groups, weight.shape[0] // groups, *weight.shape[1:]),
            )
        raise InputError(
            f"{path or 'the model itself'} is a {type(layer).__name__}, not a linear or a "
            "convolution with a weight of its own; name one of those."
        )

    @classmethod
    def _linear(cls, outputs: int, inputs: int, *, inputs_first: bool) -> "Channels":
        view = (inputs, outputs) if inputs_first else (outputs, inputs)
        return cls(
            inputs=inputs, outputs=outputs, groups=1, space=0, inputs_first=inputs_first, view=view
        )

    @property
    def outputs_first(self) -> "Channels":
        """The same for a weight as captures hand it over: that of a linear is ``[out, in]``."""
        if self.conv or not self.inputs_first:
            return self
        return self._linear(self.outputs, self.inputs, inputs_first=False)

    @property
    def conv(self) -> bool:
        """Whether the layer has axes of space."""
        return len(self.view) > 2

    @property
    def contraction(self) -> int:
        """The axis of ``view`` that fprop sums over."""
        return (1 if self.conv else 0) + (0 if self.inputs_first else 1)

    @property
    def per_group(self) -> int:
        """Input channels of one group."""
        return self.inputs // self.groups

    def on_input(self, factors: Tensor) -> Tensor:
        """``[inputs]`` in a shape that broadcasts against the layer's input."""
        return factors.view(-1, *[1] * self.space)

    def on_weight(self, factors: Tensor) -> Tensor:
        """``[inputs]`` in a shape that broadcasts against ``view``."""
        sizes = [1] * len(self.view)
        sizes[self.contraction] = self.per_group
        if self.conv:
            sizes[0] = self.groups
        return factors.view(sizes)

    def on_operand(self, factors: Tensor, operand: str) -> Tensor:
        """The same against what a quantizer is given: the view of ``"x"`` or of ``"w"``."""
        if operand == "w":
            return self.on_weight(factors)
        return factors.view(1, self.groups, -1, *[1] * self.space) if self.conv else factors

    def scaled_inputs(self, weight: Tensor, factors: Tensor) -> Tensor:
        """``weight`` with the taps of each input channel multiplied by its factor."""
        scaled = weight.detach().view(self.view) * self.on_weight(factors)
        return scaled.view_as(weight)

    def scaled_outputs(self, weight: Tensor, factors: Tensor) -> Tensor:
        """``weight`` with the taps of each output channel multiplied by its factor."""
        sizes = [1] * len(self.view)
        sizes[(1 if self.conv else 0) + (1 if self.inputs_first else 0)] = (
            self.outputs // self.groups
        )
        if self.conv:
            sizes[0] = self.groups
        return (weight.detach().view(self.view) * factors.view(sizes)).view_as(weight)

    def input_absmax(self, weight: Tensor) -> Tensor:
        """The largest magnitude among the taps of each input channel: ``[inputs]``."""
        view = weight.detach().view(self.view)
        keep = {self.contraction, *([0] if self.conv else [])}
        return view.abs().amax([axis for axis in range(view.dim()) if axis not in keep]).flatten()

    def positions(self, x: Tensor) -> int:
        """How many tokens or voxels an input has, over the whole batch."""
        return prod(x.shape) // self.inputs


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` scales its channels by a ``weight`` and shifts them by a ``bias``."""
    return isinstance(module, _NORMS) and module._parameters.get("weight") is not None  # noqa: SLF001
