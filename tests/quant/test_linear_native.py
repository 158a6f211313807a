"""The kernel of linear layers against exact arithmetic on the operands that products see."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from qprobe import native
from qprobe.quant import (
    INT4,
    MXFP4,
    Gemm,
    Granularity,
    QuantSpec,
    convert,
    recipe,
    recipes,
)
from qprobe.quant.linear_native import LANES, PANEL, pack, usable
from qprobe.quant.products import LinearKernel, Products, Setup
from qprobe.quant.remembering import remembering

pytestmark = pytest.mark.skipif(
    not usable(torch.ones(1, 1)), reason="this processor does not multiply bfloat16"
)
KNOWN = ["nvfp4", "nvfp4-2d-rht-sr", "int4-tensor", "int4-channel-token", "int4-adaptive"]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Some large, some small, some zero."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g) * torch.randn(shape, generator=g).mul(2).exp()
    return x * (torch.rand(shape, generator=g) > 0.05)


def setup(name: str) -> Setup:
    return Setup(recipe=recipe(name))


def by_kernel(x: Tensor, w: Tensor, bias: Tensor | None, asked: Setup) -> Tensor:
    packed = pack(w, LinearKernel(w), asked)
    assert packed is not None
    return packed.multiply(x, bias)


def exactly(x: Tensor, w: Tensor, bias: Tensor | None, asked: Setup) -> tuple[Tensor, Tensor]:
    """The product of the operands in float64, and the sum of its magnitudes."""
    operands = Products(x=x, w=w, kernel=LinearKernel(w), setup=asked).operands()
    a, b = (one.double() for one in operands)
    extra = 0.0 if bias is None else bias.double()
    return a @ b.T + extra, a.abs() @ b.abs().T + (0.0 if bias is None else bias.double().abs())


def assert_close(got: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, asked: Setup) -> None:
    """Within what one rounding of float32 at each addition and six besides may do."""
    exact, size = exactly(x, w, bias, asked)
    bound = (x.shape[-1] + 6) * 2.0**-24 * size + 1e-37
    assert (got.double() - exact).abs().le(bound).all()


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("inputs", [1, 15, 16, 17, 40, 192])
@pytest.mark.parametrize("outputs", [1, 31, 33, 64])
def test_it_is_the_product_of_the_operands(name, inputs, outputs):
    asked = setup(name)
    for rows in (1, 11, 12, 13, 47, 49, 100):
        x, w = numbers(rows, inputs, seed=rows), numbers(outputs, inputs, seed=1)
        bias = numbers(outputs, seed=2) if rows % 2 else None
        assert_close(by_kernel(x, w, bias, asked), x, w, bias, asked)


@pytest.mark.parametrize("name", ["int4-tensor", "int4-channel-token"])
def test_sums_of_integers_are_exact(name):
    """Scales that are powers of two: nothing is left to round."""
    x, w = torch.randint(-7, 8, (30, 48)).float(), torch.randint(-7, 8, (20, 48)).float()
    x[:, 0], w[:, 0] = 7.0, -7.0
    got = by_kernel(x * 0.25, w * 4.0, None, setup(name))
    assert torch.equal(got, (x.double() @ w.double().T).float())


def test_blocks_by_hand():
    """One block of 6, 1 and zeros under A = 6: its scale is 448, the tensor's factor 1/448."""
    x = torch.zeros(1, 16)
    x[0, :3] = torch.tensor([6.0, 1.0, -0.2])  # -0.2 is rounded to nothing
    w = torch.zeros(2, 16)
    w[0, :3], w[1, 1] = torch.tensor([1.0, 2.0, 6.0]), 6.0
    got = by_kernel(x, w, torch.tensor([0.5, 0.25]), setup("nvfp4"))
    torch.testing.assert_close(got, torch.tensor([[8.5, 6.25]]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", KNOWN)
def test_magnitudes_that_break_things(name):
    asked, w = setup(name), numbers(17, 33, seed=3)
    for size in (1e-30, 1e-20, 1e20, 1e34):
        x = numbers(14, 33, seed=4) / 1e3
        x[3], x[5] = 0.0, x[5] * 1e-3
        assert_close(by_kernel(x * size, w, None, asked), x * size, w, None, asked)
    for zeros in (torch.zeros(3, 33), torch.zeros(17, 33)):
        assert not by_kernel(zeros, w, None, asked).any()
        assert not by_kernel(w, zeros, None, asked).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("name", "rows"), [("nvfp4", 3), ("int4-tensor", 3), ("int4-adaptive", 1)])
def test_what_shares_a_scale_with_nan_is_not_finite(bad, name, rows):
    x, w = numbers(3, 20), numbers(5, 20, seed=1)
    x[1, 2] = bad
    got = by_kernel(x, w, None, setup(name))
    plain = Products(x=x, w=w, kernel=LinearKernel(w), setup=setup(name)).fprop()
    assert torch.equal(got.isfinite(), plain.isfinite())
    assert int((~got.isfinite()).all(1).sum()) == rows


def knows(asked: Setup) -> bool:
    w = numbers(8, 16)
    return pack(w, LinearKernel(w), asked) is not None


def test_which_recipes_it_knows():
    found = {one.name for one in recipes() if knows(Setup(recipe=one))}
    assert found == {one.name for one in recipes()} - {"bf16", "nvfp4-fwd-rht"}


@pytest.mark.parametrize(
    "spec",
    [
        QuantSpec(format=MXFP4),
        QuantSpec(format=INT4, granularity=Granularity.CHANNEL),
        None,
    ],
    ids=str,
)
def test_inputs_it_does_not_know(spec):
    asked = setup("nvfp4").recipe
    other = replace(asked, fprop=Gemm(a=spec, b=asked.fprop.b))
    assert not knows(Setup(recipe=other))


@pytest.mark.parametrize(
    "spec",
    [
        QuantSpec(format=MXFP4),
        QuantSpec(format=INT4, granularity=Granularity.TOKEN),
        None,
    ],
    ids=str,
)
def test_weights_it_does_not_know(spec):
    asked = setup("nvfp4").recipe
    other = replace(asked, fprop=Gemm(a=asked.fprop.a, b=spec))
    assert knows(Setup(recipe=other)) is (spec is not None and spec.format == INT4)


@pytest.mark.parametrize("w", [torch.full((4, 16), 1e-28), torch.full((4, 16), math.nan)])
def test_weights_it_leaves_to_the_other_path(w):
    assert pack(w, LinearKernel(w), setup("nvfp4")) is None


def test_what_is_packed_is_what_products_see():
    w, asked = numbers(33, 20), setup("nvfp4-2d-rht-sr")
    packed = pack(w, LinearKernel(w), asked)
    assert packed is not None
    flat = packed.weight.transpose(1, 2).reshape(2 * PANEL, 2 * LANES)
    assert not flat[33:].any()
    assert not flat[:, 20:].any()
    seen = Products(x=w, w=w, kernel=LinearKernel(w), setup=asked).operands()[1]
    torch.testing.assert_close(
        flat[:33, :20].float() * packed.scale[:, None], seen, rtol=4e-7, atol=0
    )
    bits = flat.float().contiguous().view(torch.int32)
    assert not (bits & 0x3FFFF).any()  # six significant bits: the products of two are exact


def layer(name: str, **options: bool) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 40, **options))
    convert(model, name, layers="all")
    return model


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_evaluation(name, bias):
    model = layer(name, bias=bias)
    x = numbers(2, 5, 24)
    with torch.no_grad():
        before = model(x)
        with remembering(model.modules()):
            got, view = model(x), model(numbers(24, 2, 5).movedim(0, -1))
        assert torch.equal(model(x), before)  # only inside
        assert view.shape == (2, 5, 40)
    w, b = model[0].weight.detach(), model[0].bias
    assert_close(got, x, w, None if b is None else b.detach(), model[0].setup)


@pytest.mark.parametrize(
    "case", ["gradients", "float64", "bias", "autocast", "nothing", "no kernels"]
)
def test_where_it_stands_aside(case, monkeypatch):
    model = layer("nvfp4")
    x = numbers(3, 24)
    if case == "float64":
        model, x = model.double(), x.double()
    if case == "bias":
        model[0].bias.data = model[0].bias.data.double()
    if case == "nothing":
        x = x[:0]
    if case == "no kernels":
        monkeypatch.setattr(native, "kernels", None)
    with (
        torch.set_grad_enabled(case == "gradients"),
        torch.autocast("cpu", enabled=case == "autocast"),
    ):
        before = model(x)
        with remembering(model.modules()):
            assert torch.equal(model(x), before)


def test_it_is_another_rounding_and_that_shows():
    """Else the tests above would not have run the kernel at all."""
    model, x = layer("nvfp4"), numbers(64, 24)
    with torch.no_grad():
        before = model(x)
        with remembering(model.modules()):
            got = model(x)
    assert not torch.equal(got, before)
    torch.testing.assert_close(got, before, rtol=1e-4, atol=1e-4)
