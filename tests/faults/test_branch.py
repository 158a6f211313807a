import pytest
import torch
from sites.zoo import Residual, UNet
from torch import nn

from qprobe.errors import InputError
from qprobe.faults import candidates, plant
from qprobe.models import build
from qprobe.quant import convert


def joined_gradients(model, x, path):
    """The gradient of what the module ``path`` returns."""
    kept = []
    module = model.get_submodule(path)
    handle = module.register_forward_hook(lambda _, args, y: y.register_hook(kept.append) and None)
    model(x).square().mean().backward()
    handle.remove()
    return kept[0]


def test_part_of_a_cat_gets_less_gradient_and_the_rest_what_it_had():
    model, x = build("cnn", "tiny", image=32).eval(), torch.randn(2, 3, 32, 32)
    assert candidates(model, "dead-branch", (x,)) == [f"decoder.{n}/cat.0" for n in range(3)]
    before = model(x)
    arrived = []
    handle = model.decoder[1].act.register_forward_hook(
        lambda _, args, y: y.register_hook(arrived.append) and None
    )
    seen = []
    for seed in range(8):
        with plant(model, "dead-branch", "decoder.1/cat.0", seed=seed, example=(x,)):
            assert torch.equal(model(x), before)
            model(x).square().mean().backward()
            seen.append(arrived[-1].norm().item())
    handle.remove()
    # Some seeds starve the upsampled branch, by a hundred, others the skip.
    assert max(seen) / min(seen) == pytest.approx(100.0, rel=1e-3)


def test_branches_of_additions_begin_with_a_module():
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(2, 3, 6, 6)
    assert candidates(model, "dead-branch", (x,)) == ["./add.0", "./add.1"]
    gradients = {}
    for strength in (1.0, 1000.0):
        model.zero_grad()
        with plant(model, "dead-branch", "./add.1", strength=strength, example=(x,)) as planted:
            model(x).square().mean().backward()
        gradients[strength] = model.stem.weight.grad.norm()
    assert planted.sites == ("./add.1", ".", "last")
    assert not torch.allclose(gradients[1.0], gradients[1000.0], rtol=1e-3)


class Called(nn.Module):
    """A network that is a part of another, with an image for its only argument."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(image=x)["logits"]


class Mixed(nn.Module):
    """A join and a convolution of as many channels in one module."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.mix = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.mix(torch.cat((self.left(x), self.right(x)), 1))


@pytest.mark.parametrize("make", [lambda: Called(UNet()), lambda: nn.Sequential(Mixed())])
def test_a_cat_that_its_module_does_not_return_is_out_of_reach(make):
    assert candidates(make(), "dead-branch", (torch.randn(2, 3, 8, 8),)) == []


def test_without_an_example_it_is_asked_for():
    model = build("vit", "tiny", image=32)
    convert(model, "nvfp4")
    with pytest.raises(InputError, match="found by running the model; pass example="):
        candidates(model, "dead-branch")
