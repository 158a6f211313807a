"""What a recipe changes about the weight of a layer."""

import torch
from torch import Tensor, nn

from qprobe.quant.layers import QuantizedLayer
from qprobe.quant.products import ConvKernel, Kernel, LinearKernel, fprop_weight
from qprobe.quant.transposed import stores_transposed
from qprobe.quant.transposed_kernel import TransposedKernel


def weight_error(layer: QuantizedLayer) -> Tensor | None:
    """``Q(w) − w`` in the weight's shape; None where fprop takes the weight as it is.

    In the weight's dtype, of half precision in float32: a difference of halves is often no half.

    ``Q`` is what this layer does to its weight in the forward product, by its own quantizer and in
    the original basis (a rotated operand is turned back).
    """
    weight = layer.weight
    if layer.recipe.fprop.b is None or not isinstance(weight, Tensor):
        return None
    values = fprop_weight(weight, _kernel(layer, weight), layer.setup)
    return (values.double() - weight.detach().double()).to(
        torch.promote_types(weight.dtype, torch.float32)
    )


def _kernel(layer: QuantizedLayer, weight: Tensor) -> Kernel:
    if isinstance(layer, nn.modules.conv._ConvNd):  # noqa: SLF001  (the base of all six)
        # How far the kernel steps and pads does not matter to its weight.
        arguments = (layer.stride, layer.padding, layer.dilation, layer.transposed)
        return ConvKernel(weight, layer.groups, arguments)
    return TransposedKernel(weight) if stores_transposed(layer) else LinearKernel(weight)
