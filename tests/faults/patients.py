"""Models to plant defects in, and how much a defect hurts where it is."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from qprobe.faults import KINDS, candidates, plant
from qprobe.models import build
from qprobe.quant import NVFP4, Gemm, Operand, QuantRecipe, QuantSpec, Role, convert

_BLOCKS = QuantSpec(format=NVFP4)
WITH_ATTENTION = QuantRecipe(
    name="with-attention",
    fprop=Gemm(a=_BLOCKS, b=_BLOCKS),
    attention=Gemm(a=_BLOCKS, b=_BLOCKS),
    summary="the attention products as well",
    reference="these tests",
)


@dataclass(frozen=True)
class Patient:
    model: nn.Module
    x: torch.Tensor


def patient(kind, architecture="vit", dtype=torch.float32):
    """A model with logits and activations of a size that trained models have, under a recipe."""
    model = build(architecture, "tiny", image=32).to(dtype).eval()
    drawn = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "qkv" in name or "fc" in name or "proj" in name:
                parameter.mul_(6.0)
            if "norm" in name and name.endswith("weight"):
                spread = torch.randn(parameter.shape, generator=drawn, dtype=dtype)
                parameter.mul_((0.4 * spread).exp())
    convert(model, WITH_ATTENTION if kind == "key-offset" else "nvfp4-sr")
    x = torch.randn(2, 3, 32, 32, generator=drawn, dtype=dtype)
    return Patient(model, x)


def site_for(kind, one):
    found = candidates(one.model, kind, (one.x,))
    return found[len(found) // 2]


def high_precision(model):
    twin = copy.deepcopy(model)
    convert(twin, "bf16")
    return twin


def output_at(model, path, x):
    kept = []
    module = model.get_submodule(path)
    handle = module.register_forward_hook(lambda _, args, y: kept.append((args[0], y)))
    with torch.no_grad():
        model(x)
    handle.remove()
    return kept[0]


def damage(one, kind, site, strength, seed=0):
    """Error that the defect adds where it is, as a share of what is there."""
    with plant(one.model, kind, site, strength=strength, seed=seed, example=(one.x,)) as planted:
        if kind == "dead-branch":
            return 1.0 / branch_gradient(one, planted.sites[-1]).norm().item()
        if KINDS[kind].gradient:
            return gradient_error(one, site)
        path = site if len(planted.sites) == 1 else planted.sites[1]
        _, y = output_at(one.model, path, one.x)
        kept = []
        exact = high_precision(one.model)
        # The same input to both, so that layers before do not count; it has its outlier already.
        exact.get_submodule(path).register_forward_hook(lambda _, args, y: kept.append(y))
        _replace_input(one.model, exact, path, one.x)
        return ((y - kept[-1]).norm() / kept[-1].norm()).item()


def _replace_input(model, exact, path, x):
    """Run ``exact`` on what reaches ``path`` in ``model`` before the defect's own hooks."""
    module = model.get_submodule(path)
    seen = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args), prepend=True)
    with torch.no_grad():
        model(x)
        exact.get_submodule(path)(*seen[-1])
    handle.remove()


def loss_of(model, x):
    """Of the size of a mean over pixels, so gradients have the size that they have in training."""
    y = model(x)
    return (y * torch.linspace(-1, 1, y.numel()).view(y.shape).to(y)).mean() / 10.0


def gradient(model, x, name):
    model.zero_grad()
    loss_of(model, x).backward()
    return dict(model.named_parameters())[name].grad.clone()


def branch_gradient(one, path):
    """The gradient that arrives where a branch leaves the tensor that it shares."""
    kept = []

    def alias(_, args):
        x = args[0].view_as(args[0])
        x.register_hook(kept.append)
        return (x, *args[1:])

    handle = one.model.get_submodule(path).register_forward_pre_hook(alias, prepend=True)
    loss_of(one.model, one.x).backward()
    handle.remove()
    return kept[0]


def gradient_error(one, site, draws=64):
    """What the layer's quantizer makes of dy, in the mean of many draws, so that bias stays."""
    layer, kept = one.model.get_submodule(site), []
    handle = layer.register_forward_hook(lambda _, args, y: y.register_hook(kept.append) and None)
    loss_of(one.model, one.x).backward()
    handle.remove()
    dy = kept[0].flatten(0, -2)
    operand = Operand(axes=1, spec=layer.recipe.dgrad.a)
    setup, role = layer.setup, Role("dgrad", "dy")
    total = sum(setup.quantizer(dy, operand, role, setup.generator) for _ in range(draws))
    return ((total / draws - dy).norm() / dy.norm()).item()
