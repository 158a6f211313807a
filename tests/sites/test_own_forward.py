from functools import partial, update_wrapper

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.testing._internal.two_tensor import TwoTensor

from qprobe.models import build
from qprobe.quant import convert
from qprobe.records.schema import Role
from qprobe.sites import discover
from qprobe.sites.own_forward import computes_its_own


class Adapted(nn.Linear):
    """An adapter of low rank beside the product, as fine-tuning adds it."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.down, self.up = nn.Linear(sizes[0], 1), nn.Linear(1, sizes[1])

    def forward(self, x):
        return super().forward(x) + self.up(self.down(x))


class Standardized(nn.Conv2d):
    """Its weight is standardized in every pass."""

    def forward(self, x):
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return self._conv_forward(x, weight, self.bias)


class Named(nn.Linear):
    """A subclass that computes what its class does."""


def of_two(layer):
    """A layer whose weight another library has made to mean something."""
    weight = TwoTensor(layer.weight.detach(), layer.weight.detach().clone())
    layer.weight = nn.Parameter(weight)
    return layer


def trained_to_be_rounded(*sizes):
    """A layer of PyTorch itself that rounds its weight."""
    config = torch.ao.quantization.default_qat_qconfig
    return torch.ao.nn.qat.Linear(*sizes, qconfig=config)


def moved_about(layer):
    """As libraries do that bring weights to their device before each call."""
    before = layer.forward
    layer.forward = update_wrapper(partial(lambda old, x: old(x), before), before)
    return layer


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (Adapted(4, 4), "own_linear"),
        (Standardized(2, 2, 1), "own_conv2d"),
        (moved_about(Adapted(4, 4)), "own_linear"),
        (of_two(nn.Linear(4, 4)), "own_linear"),
        (trained_to_be_rounded(4, 4), "own_linear"),
        (Named(4, 4), "linear"),
        (moved_about(nn.Linear(4, 4)), "linear"),
        (nn.Conv3d(2, 2, 1, padding_mode="circular", padding=1), "conv3d"),
        (nn.LazyLinear(4), "linear"),
        (parametrizations.weight_norm(nn.Linear(4, 4)), "linear"),
        (parametrizations.spectral_norm(nn.Conv1d(2, 2, 1)), "conv1d"),
        (prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5), "linear"),
    ],
)  # fmt: skip
def test_kinds_tell_products_from_what_only_looks_like_them(layer, kind):
    sites = [site for site in discover(nn.ModuleDict({"m": layer})) if site.path == "m"]
    assert {site.kind for site in sites} == {kind}
    computed = kind.startswith("own") is False and not isinstance(
        layer._parameters.get("weight"), nn.Parameter
    )
    assert (Role.WEIGHT in {site.role for site in sites}) is not (
        computed or isinstance(layer.weight, TwoTensor)
    )


@pytest.mark.parametrize("architecture", ["cnn", "vit", "swin"])
def test_our_models_multiply_as_their_classes_say(architecture):
    model = build(architecture, "tiny", image=32)
    for recipe in (None, "nvfp4", "bf16"):
        if recipe is not None:
            convert(model, recipe, layers="all")
        assert not any(map(computes_its_own, model.modules()))
