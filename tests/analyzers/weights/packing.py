"""Weights packed by the book, and by a tensor scale that is wrong."""

import torch
from torch import Tensor

from qprobe.quant import NVFP4, QuantSpec, quantize


def pack_nvfp4(weight: Tensor, factor: Tensor | float | None = None) -> dict[str, Tensor]:
    """The parts of ModelOpt's layout; with a ``factor`` other than amax / 2688 a wrong one."""
    if factor is None:
        q = quantize(weight, QuantSpec(format=NVFP4))
        scale, codes, factor = q.scale, q.codes, q.amax / 2688.0
    else:
        blocks = weight.unflatten(1, (-1, 16))
        scale = (blocks.abs().amax(2) / (6.0 * factor)).clamp(2.0**-9, 448.0)
        scale = scale.to(torch.float8_e4m3fn).float()
        y = (blocks / (scale * factor).unsqueeze(2)).clamp(-6.0, 6.0).flatten(1)
        levels = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
        codes = (y.abs().unsqueeze(-1) - levels).abs().argmin(-1).to(torch.uint8)
        codes |= (y < 0).to(torch.uint8) << 3
    return {
        "fc.weight": codes[:, 0::2] | (codes[:, 1::2] << 4),
        "fc.weight_scale": scale.to(torch.float8_e4m3fn),
        "fc.weight_scale_2": torch.as_tensor(factor, dtype=torch.float32),
    }
