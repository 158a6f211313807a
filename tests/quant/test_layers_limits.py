"""Quantized layers where there is nothing to compute, nothing to store it in, or no way to."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.quant import convert

RECIPES = ["nvfp4", "nvfp4-2d-rht-sr", "int4-adaptive", "nvfp4-chain"]


def run(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    grads = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "dx": x.grad, **grads}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.Linear(16, 8), (0, 16)),
        (lambda: nn.Linear(16, 8), (2, 0, 16)),
        (lambda: nn.Linear(0, 8), (3, 0)),
        (lambda: nn.Linear(16, 0), (3, 16)),
        (lambda: nn.Conv2d(16, 8, 3, groups=2), (0, 16, 5, 5)),
        (lambda: nn.ConvTranspose3d(16, 8, 2), (0, 16, 3, 3, 3)),
    ],
)
def test_empty_batches_and_empty_layers_give_what_the_plain_layer_gives(
    build: Callable[[], nn.Module], shape: tuple[int, ...], recipe: str
) -> None:
    layer, x = build(), torch.ones(shape)
    plain = run(layer, x)
    convert(layer, recipe, layers="all")
    ours = run(layer, x)
    assert ours.keys() == plain.keys()
    for key, want in plain.items():
        torch.testing.assert_close(ours[key], want)


@pytest.mark.parametrize("recipe", ["nvfp4-2d-rht", "int4-adaptive", "nvfp4-chain"])
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.Linear(40, 24), (2, 9, 40)),
        (lambda: nn.Conv2d(20, 36, 3, stride=2, padding=1), (3, 20, 9, 8)),
        (lambda: nn.ConvTranspose2d(36, 40, 3, stride=2, groups=2), (2, 36, 4, 5)),
    ],
)
def test_shapes_on_the_meta_device(
    build: Callable[[], nn.Module], shape: tuple[int, ...], recipe: str
) -> None:
    layer, x = build(), torch.ones(shape)
    plain = run(layer, x)
    convert(layer.to("meta"), recipe, layers="all")
    for key, got in run(layer, x.to("meta")).items():
        assert got.is_meta
        assert got.shape == plain[key].shape


def test_complex_numbers_are_refused() -> None:
    layer = nn.Linear(16, 16, dtype=torch.complex64)
    convert(layer, "nvfp4", layers="all")
    with pytest.raises(InputError, match=r"under nvfp4 and .* got torch\.complex64"):
        layer(torch.ones(1, 16, dtype=torch.complex64))


def test_asking_for_one_graph_says_what_to_do() -> None:
    torch.compiler.reset()
    layer = nn.Linear(16, 16)
    convert(layer, "nvfp4", layers="all")
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    with pytest.raises(RuntimeError, match=r"compile without fullgraph=True"):
        compiled(torch.ones(1, 16))
