"""Linear, convolution and transposed convolution layers under a recipe."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprobe.errors import InputError, UnsuitableError
from qprobe.quant.multiply import multiply
from qprobe.quant.products import ConvKernel, Kernel, LinearKernel, Setup
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
        return multiply(x, weight, bias, kernel, self.setup)


class Linear(QuantizedLayer, nn.Linear):
    """A linear layer under a recipe."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the plain layer's name for it)
        """``input · weightᵀ + bias``."""
        return self._product(LinearKernel(self.weight), input, self.weight, self.bias)


def kernel_of(
    module: nn.Module, x: Tensor, w: Tensor, outputs: torch.Size
) -> tuple[Kernel, Tensor]:
    """The products of one call of a linear layer or convolution, and the input as they take it.

    ``module`` is a plain layer or a quantized one, ``w`` its weight ``[outputs, inputs, ...]`` (as
    a transposed convolution has it), ``outputs`` the shape of what the call returned.
    """
    if isinstance(module, nn.modules.conv._ConvNd):  # noqa: SLF001
        padded = _padded(module, x)
        return _conv_kernel(module, w, _extra(module, x, outputs)), padded
    if w.dim() != 2 or x.shape[-1] != w.shape[1] or outputs[-1] != w.shape[0]:
        raise UnsuitableError(
            f"{type(module).__name__} with a weight of {list(w.shape)}, input {list(x.shape)} and "
            f"output {list(outputs)} is no linear layer and no convolution; leave it out."
        )
    return LinearKernel(w), x


def weight_kernel(module: nn.Module, w: Tensor) -> Kernel | None:
    """The products of a layer as far as its weight is concerned; None where it has none."""
    if isinstance(module, nn.modules.conv._ConvNd):  # noqa: SLF001
        return _conv_kernel(module, w, [0] * len(module.stride))
    multiplies = w.dim() == 2 and not isinstance(module, nn.Embedding | nn.EmbeddingBag)
    return LinearKernel(w) if multiplies else None


def operand_kernel(module: nn.Module, x: Tensor, operand: str) -> tuple[Kernel, Tensor]:
    """The products of a layer as far as one operand goes, and the operand as they take it.

    ``module`` is a plain layer or a quantized one and ``x`` its input (``"x"``), its weight
    (``"w"``, ``[outputs, inputs, ...]`` or as a transposed convolution has it) or the gradient of
    its output (``"dy"``). An input is padded where the layer pads by itself.
    """
    if not isinstance(module, nn.modules.conv._ConvNd):  # noqa: SLF001
        return LinearKernel(x if operand == "w" else x.new_empty(0, 0)), x
    if operand == "w":
        return _conv_kernel(module, x, [0] * len(module.stride)), x
    ends = (module.out_channels, module.in_channels)
    outer, inner = reversed(ends) if module.transposed else ends
    weight = x.new_empty((outer, inner // module.groups, *module.kernel_size), device="meta")
    batched = x if x.dim() == weight.dim() else x.unsqueeze(0)
    kernel = _conv_kernel(module, weight, [0] * len(module.stride))
    return kernel, _padded(module, batched) if operand == "x" else batched


def _conv_kernel(
    module: nn.modules.conv._ConvNd, w: Tensor, output_padding: Sequence[int]
) -> ConvKernel:
    arguments = (
        *(list(module.stride), _zeros_around(module), list(module.dilation)),
        *(module.transposed, list(output_padding), module.groups),
    )
    return ConvKernel(w, module.groups, arguments)


def _padded(module: nn.modules.conv._ConvNd, x: Tensor) -> Tensor:
    """The input with the padding that the convolution cannot do by itself."""
    if not _pads_itself(module):
        return x
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(x, module._reversed_padding_repeated_twice, mode=mode)  # noqa: SLF001


def _pads_itself(module: nn.modules.conv._ConvNd) -> bool:
    """Whether the padding is more than zeros of one width on both sides."""
    return module.padding_mode != "zeros" or module.padding == "same"


def _zeros_around(module: nn.modules.conv._ConvNd) -> list[int]:
    if _pads_itself(module) or isinstance(module.padding, str):
        return [0] * len(module.stride)
    return list(module.padding)


def _extra(module: nn.modules.conv._ConvNd, x: Tensor, outputs: torch.Size) -> list[int]:
    """The output padding that a transposed convolution must have had to return ``outputs``."""
    if not module.transposed:
        return [0] * len(module.stride)
    space = len(module.stride)
    sizes = zip(
        *(outputs[-space:], x.shape[-space:], module.stride, _zeros_around(module)),
        *(module.dilation, module.kernel_size),
        strict=True,
    )
    return [
        size - ((given - 1) * stride - 2 * zeros + dilation * (taps - 1) + 1)
        for size, given, stride, zeros, dilation, taps in sizes
    ]


class _Conv(QuantizedLayer, nn.modules.conv._ConvNd):  # noqa: SLF001  (the base of all six)
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Convolve."""
        return self._convolve(_padded(self, input), (0,) * len(self.stride))

    def _convolve(self, x: Tensor, output_padding: Sequence[int]) -> Tensor:
        space = len(self.stride)
        if x.dim() not in (space + 1, space + 2):
            raise InputError(
                f"{type(self).__name__} takes [batch, channels] and {space} axes of space, "
                f"got {list(x.shape)}."
            )
        kernel = _conv_kernel(self, self.weight, output_padding)
        bias = None if self.bias is None else self.bias.view(-1, *[1] * space)
        batched = x if x.dim() == space + 2 else x.unsqueeze(0)
        y = self._product(kernel, batched, self.weight, bias)
        return y if x.dim() == space + 2 else y.squeeze(0)


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
