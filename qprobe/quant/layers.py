"""Linear, convolution and transposed convolution layers under a recipe."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.quant.products import ConvKernel, Kernel, LinearKernel, Setup, multiply
from qprobe.quant.recipe import QuantRecipe


class QuantizedLayer(nn.Module):
    """What the quantized layers share: the recipe, the quantizer, the generator.

    A layer becomes one in place (:func:`qprobe.quant.convert`): its parameters, their names, its
    hooks and everybody's reference to it stay as they are.
    """

    setup: Setup

    @property
    def recipe(self) -> QuantRecipe:
        """The recipe in force here."""
        return self.setup.recipe

    def extra_repr(self) -> str:
        """The plain layer's description and the recipe's name."""
        return f"{super().extra_repr()}, recipe={self.recipe.name}"

    def _product(self, kernel: Kernel, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Cast as autocast would, multiply, add the bias (shaped to broadcast)."""
        if not x.is_floating_point():
            raise InputError(
                f"{type(self).__name__} is under {self.recipe.name} and quantizes floating point "
                f"numbers, got {x.dtype}; put it back with override(model, {{path: 'bf16'}})."
            )
        device = x.device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if autocast and x.dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
            x, weight = x.to(dtype), weight.to(dtype)
            bias = bias if bias is None else bias.to(dtype)
        elif x.dtype != weight.dtype:
            raise InputError(
                f"{type(self).__name__}: the input is {x.dtype} and the weight {weight.dtype}; "
                "cast one of them or use torch.autocast."
            )
        y: Tensor = multiply(x, weight, kernel, self.setup)
        return y if bias is None else y + bias


class Linear(QuantizedLayer, nn.Linear):
    """A linear layer under a recipe."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the plain layer's name for it)
        """``input · weightᵀ + bias``."""
        return self._product(LinearKernel(self.weight), input, self.weight, self.bias)


class _Conv(QuantizedLayer, nn.modules.conv._ConvNd):  # noqa: SLF001  (the base of all six)
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Convolve."""
        if self._pads_itself():
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=mode)  # noqa: A001
        return self._convolve(input, (0,) * len(self.stride))

    def _convolve(self, x: Tensor, output_padding: Sequence[int]) -> Tensor:
        space = len(self.stride)
        if x.dim() not in (space + 1, space + 2):
            raise InputError(
                f"{type(self).__name__} takes [batch, channels] and {space} axes of space, "
                f"got {list(x.shape)}."
            )
        arguments = (
            *(list(self.stride), self._zeros_around(), list(self.dilation)),
            *(self.transposed, list(output_padding), self.groups),
        )
        kernel = ConvKernel(self.weight, self.groups, arguments)
        bias = None if self.bias is None else self.bias.view(-1, *[1] * space)
        batched = x if x.dim() == space + 2 else x.unsqueeze(0)
        y = self._product(kernel, batched, self.weight, bias)
        return y if x.dim() == space + 2 else y.squeeze(0)

    def _pads_itself(self) -> bool:
        """Whether the padding is more than zeros of one width on both sides."""
        return self.padding_mode != "zeros" or self.padding == "same"

    def _zeros_around(self) -> list[int]:
        if self._pads_itself() or isinstance(self.padding, str):
            return [0] * len(self.stride)
        return list(self.padding)


class Conv1d(_Conv, nn.Conv1d):
    """A convolution over one axis under a recipe."""


class Conv2d(_Conv, nn.Conv2d):
    """A convolution over two axes under a recipe."""


class Conv3d(_Conv, nn.Conv3d):
    """A convolution over three axes under a recipe."""


class _ConvTranspose(_Conv, nn.modules.conv._ConvTransposeNd):  # noqa: SLF001
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002
        """Convolve, transposed."""
        stride, padding, taps, dilation = (
            [int(width) for width in sizes]
            for sizes in (self.stride, self.padding, self.kernel_size, self.dilation)
        )
        output_padding = self._output_padding(
            input, output_size, stride, padding, taps, len(stride), dilation
        )
        return self._convolve(input, output_padding)


class ConvTranspose1d(_ConvTranspose, nn.ConvTranspose1d):
    """A transposed convolution over one axis under a recipe."""


class ConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d):
    """A transposed convolution over two axes under a recipe."""


class ConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d):
    """A transposed convolution over three axes under a recipe."""


#: Which plain layer becomes which quantized one.
QUANTIZED: dict[type[nn.Module], type[QuantizedLayer]] = {
    nn.Linear: Linear,
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Conv3d: Conv3d,
    nn.ConvTranspose1d: ConvTranspose1d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.ConvTranspose3d: ConvTranspose3d,
}
