"""One layer of every shape that a transform has to know, under a recipe."""

from dataclasses import replace

import torch
from torch import nn

from qprobe.quant import convert

LAYERS = {
    "linear": (lambda: nn.Linear(64, 24), (4, 10, 64)),
    "linear without bias": (lambda: nn.Linear(96, 24, bias=False), (12, 96)),
    "conv1d": (lambda: nn.Conv1d(32, 8, 3, padding=1), (2, 32, 9)),
    "conv2d": (lambda: nn.Conv2d(32, 8, 3, stride=2), (2, 32, 8, 8)),
    "conv2d reflected": (
        lambda: nn.Conv2d(32, 8, 3, padding=1, padding_mode="reflect"),
        (2, 32, 8, 8),
    ),
    "conv2d grouped": (lambda: nn.Conv2d(64, 8, 3, groups=2), (2, 64, 8, 8)),
    "conv3d": (lambda: nn.Conv3d(16, 8, 2), (2, 16, 4, 4, 4)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(32, 8, 2, stride=2), (2, 32, 5)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(32, 8, 4, stride=2, padding=1), (2, 32, 6, 6)),
    "transposed grouped": (lambda: nn.ConvTranspose2d(64, 8, 2, groups=2), (2, 64, 4, 4)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(16, 8, 2), (2, 16, 3, 3, 3)),
}


def passing(x, operand, role, generator):
    """A quantizer that quantizes nothing: high precision, through the paths of a recipe."""
    return x


def quantized(name, recipe="int4-tensor", dtype=torch.float32, *, outliers=True):
    """A model of one layer under a recipe, and an input with channels twenty times the others."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    model = nn.Sequential(make()).to(dtype)
    x = torch.randn(shape, dtype=dtype)
    channels = x.movedim(-1, 1) if "linear" in name else x
    if outliers:
        channels[:, 3] *= 20.0
    convert(model, recipe, layers="all")
    return model, x


def in_high_precision(model):
    layer = model[0]
    layer.setup = replace(layer.setup, quantizer=passing)
    return model


def sqnr(exact, quantized):
    exact, quantized = exact.detach(), quantized.detach()
    return float(10 * torch.log10(exact.square().sum() / (quantized - exact).square().sum()))
