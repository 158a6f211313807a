"""The forward product alone, as it is without gradients, and the layouts it keeps."""

import pytest
import torch
from torch import Tensor, nn

from qprobe import native
from qprobe.quant import NVFP4, QuantSpec, Rounding, convert, fake_quantize

RECIPES = ["int4-tensor", "int4-channel-token", "int4-adaptive", "nvfp4", "nvfp4-2d-rht-sr"]
LAYERS = {
    "linear": (lambda: nn.Linear(20, 12), (3, 5, 20)),
    "no bias": (lambda: nn.Linear(20, 12, bias=False), (3, 20)),
    "conv": (lambda: nn.Conv2d(8, 12, 3, padding=1, groups=2), (2, 8, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(8, 6, 2, stride=2), (2, 8, 5, 5)),
}


def layer(make, recipe: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(make())
    generator = torch.Generator().manual_seed(1) if "sr" in recipe else None
    convert(model, recipe, layers="all", generator=generator)
    return model


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", LAYERS)
def test_without_gradients_it_is_the_same_to_the_bit(
    name: str, recipe: str, autocast: bool
) -> None:
    make, shape = LAYERS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    found = []
    for grad in (True, False):
        with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = layer(make, recipe)(x)
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is (
                torch.bfloat16 if autocast else torch.float32
            )  # the region goes on as it was
        assert y.requires_grad is grad
        found.append(y.detach())
    assert found[0].dtype is found[1].dtype
    assert torch.equal(*found)


@pytest.mark.parametrize("recipe", RECIPES[:4])
def test_an_input_that_is_not_dense_keeps_its_channels_last(recipe: str) -> None:
    """Tokens without the class token, seen as an image."""
    tokens = torch.randn(2, 17, 8, generator=torch.Generator().manual_seed(3))
    image = tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    assert not image.is_contiguous(memory_format=torch.channels_last)
    model = layer(lambda: nn.Conv2d(8, 16, 3), recipe)
    with torch.no_grad():
        y = model(image)
        assert y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y, model(image.contiguous()))


def rows(*shape: int) -> Tensor:
    g = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=g) * torch.randn(shape, generator=g).mul(2).exp()
    x.view(-1)[::97] = 0.0
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("length", [1, 4, 7, 8, 12, 15])
def test_rows_shorter_than_a_block(
    length: int, rounding: Rounding, dtype: torch.dtype, implementation: str, monkeypatch
) -> None:
    """One block a row, in every number of rows that is worked on together and beside."""
    spec = QuantSpec(format=NVFP4, rounding=rounding)
    for count in (1, 15, 16, 17, 31, 32, 33, 67, 300):
        x = rows(count, length).to(dtype)
        got = fake_quantize(x, spec, 1, torch.Generator().manual_seed(5))
        with monkeypatch.context() as patch:
            patch.setattr(native, "kernels", None)
            want = fake_quantize(x, spec, 1, torch.Generator().manual_seed(5))
        same = torch.int32 if dtype is torch.float32 else torch.int16
        assert torch.equal(got.view(same), want.view(same))
