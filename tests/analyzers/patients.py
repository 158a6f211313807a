"""Small subjects, healthy ones and such as a defect can be planted in."""

from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from qprobe.analyzers.base import Subject
from qprobe.faults import candidates, plant
from qprobe.models import build
from qprobe.quant import NVFP4, Gemm, QuantRecipe, QuantSpec, Rounding, convert

_BLOCKS = QuantSpec(format=NVFP4)
_DRAWN = QuantSpec(format=NVFP4, rounding=Rounding.STOCHASTIC)
#: Everything that a planted defect may need.
EVERYTHING = QuantRecipe(
    name="everything",
    fprop=Gemm(a=_BLOCKS, b=_BLOCKS),
    dgrad=Gemm(a=_DRAWN, b=_BLOCKS),
    wgrad=Gemm(a=_DRAWN, b=_BLOCKS),
    attention=Gemm(a=_BLOCKS, b=_BLOCKS),
    summary="every product, gradients stochastically",
    reference="these tests",
)


class NegativeLoss:
    name = "negative_loss"

    def of(self, output, batch):
        losses = _losses(output, batch).detach().double().numpy()
        return np.stack([losses, np.ones_like(losses)], axis=1)

    def reduce(self, totals):
        return -totals[:, 0] / totals[:, 1]


def _losses(output, batch):
    return (output - batch[1]).square().flatten(1).mean(1)


def subject(model, batches, recipe):
    return Subject(
        model=model, recipe=recipe, batches=lambda: batches, loss=_losses, score=NegativeLoss()
    )


class Fused(nn.Module):
    """Two convolutions of which the second sees both: a fusion that returns what it joined."""

    def __init__(self):
        super().__init__()
        self.stem, self.left = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)
        self.right, self.head = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(32, 1, 1)
        self.join = Join()

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(self.join(self.left(x), self.right(x)))


class Join(nn.Module):
    def forward(self, left, right):
        return torch.cat([left, right], 1)


def convolutions(name="nvfp4-sr"):
    """A small healthy model under a recipe, with two batches of noise."""
    torch.manual_seed(0)
    model = Fused().eval()
    convert(model, name, layers="all", generator=torch.Generator().manual_seed(0))
    drawn = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(4, 3, 12, 12, generator=drawn), torch.randn(4, 1, 12, 12, generator=drawn))
        for _ in range(2)
    ]
    return subject(model, batches, model.left.recipe)


def transformer():
    """A tiny ViT with logits and activations of a size that trained ones have."""
    torch.manual_seed(0)
    model = build("vit", "tiny", image=32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "qkv" in name or "fc" in name or "proj" in name:
                parameter.mul_(6.0)
    convert(model, EVERYTHING, generator=torch.Generator().manual_seed(0))
    drawn = torch.Generator().manual_seed(2)
    x = torch.randn(4, 3, 32, 32, generator=drawn)
    return subject(model, [(x, torch.randn(model(x).shape, generator=drawn))], EVERYTHING)


@contextmanager
def sick(patient, kind, *, strength, seed=0):
    """The subject with a defect, and the sites that name its place."""
    example = (patient.batches()[0][0],)
    fitting = candidates(patient.model, kind, example)
    site = fitting[len(fitting) // 2]
    with plant(patient.model, kind, site, strength=strength, seed=seed, example=example) as planted:
        yield planted.sites
