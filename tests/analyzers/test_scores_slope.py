"""Whether the slope of accuracy orders layers better than the loss, where all recoveries are known.

docs/concepts/dequantization.md has the numbers of 51 such cases; these are three of them.
"""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import qprobe
from qprobe.analyzers.dequantization import EXHAUSTIVE, Bounds, Dequantization
from qprobe.analyzers.dequantization.emit import Measured
from qprobe.analyzers.scores import Accuracy
from qprobe.inference import kendall_tau

TRAINED, STEPS = 800, 400
SEARCH = replace(
    EXHAUSTIVE, screened=1.0, operands=False, cumulative=0, sensitivity=False, gradients=0
)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        samples, tokens, width = x.shape
        q, k, v = self.qkv(self.n1(x)).view(samples, tokens, 3, 2, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x + self.proj(mixed.reshape(samples, tokens, width))
        return x + self.fc2(F.gelu(self.fc1(self.n2(x))))


class Classifier(nn.Module):
    """A small ViT of patches of 2 by 2 pixels."""

    def __init__(self, width=32, depth=5):
        super().__init__()
        self.stem, self.pos = nn.Linear(4, width), nn.Parameter(0.1 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        patches = x.unfold(1, 2, 2).unfold(2, 2, 2).reshape(len(x), 16, 4)
        return self.head(self.norm(self.blocks(self.stem(patches) + self.pos)).mean(1))


def losses(output, batch):
    return F.cross_entropy(output, batch[1], reduction="none")


class OfTheLoss:
    """Accuracy without its slope."""

    name = "accuracy"

    def __init__(self):
        accuracy = Accuracy()
        self.of, self.reduce = accuracy.of, accuracy.reduce


def noisy_digits():
    digits = load_digits()
    drawn = torch.Generator().manual_seed(0)
    order = torch.randperm(len(digits.target), generator=drawn)
    x = torch.tensor(digits.images, dtype=torch.float32)[order] / 16
    return x + 0.25 * torch.randn(x.shape, generator=drawn), torch.tensor(digits.target)[order]


def trained(x, y):
    torch.manual_seed(0)
    model, drawn = Classifier(), torch.Generator().manual_seed(100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(STEPS):
        at = torch.randint(TRAINED, (64,), generator=drawn)
        optimizer.zero_grad()
        losses(model(x[at]), (None, y[at])).mean().backward()
        optimizer.step()
    return model.eval()


def agreement(subject):
    """Kendall's τ between the screen of all samples and the recoveries of all layers."""
    found = Measured(list(Dequantization(SEARCH, Bounds(draws=200)).measure(subject)))
    screen, truth = found.values("screen"), found.intervals("recovery")
    assert len(truth) == 22
    order = [screen[path] for path in truth], [one.estimate for one in truth.values()]
    return kendall_tau(*order).estimate


@pytest.mark.slow
def test_the_slope_of_accuracy_orders_layers_better_than_the_loss():
    x, y = noisy_digits()
    plain = trained(x, y)
    batches = [(x[at : at + 64], y[at : at + 64]) for at in range(TRAINED, len(x), 64)]
    gained = []
    for name in ("int4-tensor", "nvfp4", "int4-channel-token"):
        model = copy.deepcopy(plain)
        qprobe.convert(model, name, layers="all")
        subject = qprobe.Subject(
            model=model, recipe=qprobe.recipe(name), batches=lambda: batches, loss=losses,
            score=Accuracy(),
        )  # fmt: skip
        gained.append(agreement(subject) - agreement(replace(subject, score=OfTheLoss())))
    assert sum(gained) / len(gained) > 0.05, gained
