"""Defects in models that nobody here wrote: MONAI and Hugging Face, from their configurations."""

import copy

import pytest
import torch
from sites.zoo import loss_of
from torch.utils._pytree import tree_leaves

from qprobe.faults import KINDS, candidates, plant
from qprobe.quant import convert

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # theirs are not ours to fix
]


def vit():
    hf = pytest.importorskip("transformers")
    config = hf.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
    )
    return hf.ViTForImageClassification(config), (torch.randn(2, 3, 32, 32),)


def llama():
    hf = pytest.importorskip("transformers")
    config = hf.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return hf.LlamaForCausalLM(config), (torch.randint(0, 64, (2, 7)),)


def unet():
    nets = pytest.importorskip("monai.networks.nets")
    model = nets.UNet(
        spatial_dims=3, in_channels=1, out_channels=2, channels=(16, 32, 32), strides=(2, 2)
    )
    return model, (torch.randn(2, 1, 8, 8, 8),)


def unetr():
    nets = pytest.importorskip("monai.networks.nets")
    model = nets.UNETR(
        in_channels=1,
        out_channels=2,
        img_size=16,
        feature_size=16,
        hidden_size=48,
        mlp_dim=64,
        num_heads=4,
        spatial_dims=2,
    )
    return model, (torch.randn(2, 1, 16, 16),)


def values(model, args):
    with torch.no_grad():
        output = model(*args)
    return torch.cat([leaf.flatten() for leaf in tree_leaves(output) if torch.is_tensor(leaf)])


@pytest.mark.parametrize("make", [vit, llama, unet, unetr])
def test_every_kind_that_fits_is_planted_and_taken_out(make):
    torch.manual_seed(0)
    model, args = make()
    model = model.double().eval()
    args = tuple(arg.double() if arg.is_floating_point() else arg for arg in args)
    convert(model, "nvfp4-sr")
    before, fitted = values(model, args), set()
    plain = copy.deepcopy(model)
    convert(plain, "bf16")
    exact = values(plain, args)
    for kind in KINDS:
        found = candidates(model, kind, args)
        for site in (found[0], found[-1]) if found else ():
            fitted.add(kind)
            with plant(model, kind, site, example=args):
                twin = copy.deepcopy(model)
                convert(twin, "bf16")
                if KINDS[kind].preserves:
                    error = (values(twin, args) - exact).norm() / exact.norm()
                    assert error < 1e-11, (kind, site)
                loss_of_model = loss_of(tree_of(model, args))
                loss_of_model.backward()
            assert torch.equal(values(model, args), before), (kind, site)
    assert len(fitted) >= 14


def tree_of(model, args):
    leaves = [leaf for leaf in tree_leaves(model(*args)) if torch.is_tensor(leaf)]
    return {str(place): leaf for place, leaf in enumerate(leaves) if leaf.requires_grad}
