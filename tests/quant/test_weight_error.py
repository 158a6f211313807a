import pytest
import torch
from torch import nn

from qprobe.quant import convert, override, recipes
from qprobe.quant.weight_error import weight_error

LAYERS = {
    "linear": (lambda: nn.Linear(48, 20, bias=False), (16, 48)),
    "conv": (lambda: nn.Conv2d(32, 20, 3, groups=2, bias=False), (2, 32, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(32, 20, 2, bias=False), (2, 32, 4, 4)),
}
QUANTIZING = [one.name for one in recipes() if one.quantizes]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", QUANTIZING)
def test_it_is_what_the_forward_product_does_to_the_weight(name, kind):
    """The layer with x as it is and w + Δw gives what the layer itself gives with its own w."""
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer = make()
    convert(layer, name, layers="all")
    seen = {}

    def spy(x, operand, role, generator, own=layer.setup.quantizer):
        if (role.gemm, role.operand) == ("fprop", "x"):
            return x.float()
        return seen.setdefault(role.operand, own(x, operand, role, generator))

    faithful = weight_error(layer)
    layer.setup = type(layer.setup)(
        recipe=layer.setup.recipe, quantizer=spy, generator=layer.setup.generator
    )
    x = torch.randn(shape)
    y = layer(x).detach()
    override(layer, {"*": "bf16"})
    with torch.no_grad():
        layer.weight += faithful
    torch.testing.assert_close(y, layer(x).detach(), atol=1e-5, rtol=1e-5)
    assert seen["w"].numel() == faithful.numel()
    assert faithful.any()


def test_a_weight_that_is_not_quantized_has_no_error():
    from dataclasses import replace

    from qprobe.quant import Gemm, recipe

    layer = nn.Linear(16, 16)
    kept = recipe("int8-tensor")
    convert(layer, replace(kept, fprop=Gemm(a=kept.fprop.a), dgrad=Gemm(), wgrad=Gemm()), "all")
    assert weight_error(layer) is None
