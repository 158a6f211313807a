"""NVFP4 of other libraries on the CPU: quantize and dequantize, as their users would call it.

Each function imports its library when called and raises ImportError where it is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from lone_import import import_alone, te_reference
from torch import Tensor

_BLOCK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A library's way from values to NVFP4 and back."""

    name: str
    version: str
    fake_quantize: Callable[[Tensor], Tensor]


def transformer_engine() -> Peer:
    """Transformer Engine's reference quantizer, and the formula of its CUDA dequantizer.

    The reference can only turn codes into numbers; the scales are put on here.
    """
    reference, release = te_reference()
    quantizer = reference.NVFP4QuantizerRef(
        dtype=reference.reference_utils.Fp4Formats.E2M1, columnwise=False
    )

    def fake_quantize(x: Tensor) -> Tensor:
        q = quantizer.quantize(x)
        values: Tensor = reference.cast_from_fp4x2(q.data, torch.float32)
        decode = (q.scale.float() * q.global_amax_row) * (1.0 / 2688.0)
        blocks = values.view(*q.scale.shape, _BLOCK).mul_(decode.unsqueeze(-1))
        return blocks.view(x.shape).to(x.dtype)

    return Peer(
        name="Transformer Engine, Python reference", version=release, fake_quantize=fake_quantize
    )


def torchao() -> Peer:
    """``torchao.prototype.mx_formats`` with a scale per tensor on top of the blocks'."""
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    def fake_quantize(x: Tensor) -> Tensor:
        scale = per_tensor_amax_to_scale(x.abs().max())
        values: Tensor = NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale).dequantize(x.dtype)
        return values

    return Peer(
        name="torchao, NVFP4Tensor", version=version("torchao"), fake_quantize=fake_quantize
    )


def modelopt() -> Peer:
    """``modelopt``'s storage format; its fake-quantization operator needs a GPU."""
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    def fake_quantize(x: Tensor) -> Tensor:
        q, scale, double_scale = NVFP4QTensor.quantize(x, _BLOCK)
        values: Tensor = q.dequantize(
            dtype=x.dtype, scale=scale, double_scale=double_scale, block_sizes={-1: _BLOCK}
        )
        return values

    return Peer(
        name="ModelOpt, NVFP4QTensor",
        version=version("nvidia-modelopt"),
        fake_quantize=fake_quantize,
    )


def fp_quant(checkout: Path) -> Peer:
    """The quantizer in a checkout of IST-DASLab/FP-Quant, which is not on a package index."""
    source = checkout / "src"
    if not (source / "quantization" / "quantizer.py").is_file():
        raise ImportError(f"{checkout} is no checkout of FP-Quant")
    module = import_alone("src.quantization.quantizer", source)

    def fake_quantize(x: Tensor) -> Tensor:
        quantizer = module.Quantizer(
            bits=4, format="nvfp", granularity="group", group_size=_BLOCK, scale_precision="e4m3"
        )
        values: Tensor = quantizer(x, *quantizer.get_quantization_params(x))
        return values

    return Peer(name="FP-Quant, Quantizer", version="checkout", fake_quantize=fake_quantize)
