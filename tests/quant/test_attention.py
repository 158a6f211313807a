"""Attention products against PyTorch's, and against explicit dequantized operands."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprobe.quant import (
    INT8,
    NVFP4,
    Gemm,
    Granularity,
    Operand,
    QuantRecipe,
    QuantSpec,
    Role,
    ScaledDotProduct,
    convert,
    fake_quantize,
    rotate,
)

RTN = QuantSpec(format=NVFP4)


def tensors(head_dim: int = 16, keys: int = 20) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 12, head_dim), (2, 3, keys, head_dim), (2, 3, keys, head_dim))
    return [torch.randn(shape, generator=g, requires_grad=True) for shape in shapes]


def under(gemm: Gemm, **arguments: float) -> nn.Module:
    module = ScaledDotProduct(**arguments)  # type: ignore[arg-type]
    convert(module, QuantRecipe(name="a", attention=gemm, summary="s", reference="r"))
    return module


@pytest.mark.parametrize("scale", [None, 0.7])
def test_without_quantization_it_is_pytorchs(scale: float | None) -> None:
    q, k, v = tensors()
    bias = torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(12, 20, generator=torch.Generator().manual_seed(2)) > 0.3
    for extra in (None, bias, mask):
        want = F.scaled_dot_product_attention(q, k, v, attn_mask=extra, scale=scale)
        assert torch.equal(ScaledDotProduct(scale)(q, k, v, extra), want)
        ours = under(Gemm(), **({} if scale is None else {"scale": scale}))(q, k, v, extra)
        torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-6)


def test_operands_are_quantized_along_what_each_product_sums_over() -> None:
    q, k, v = tensors()
    got = under(Gemm(a=RTN, b=RTN))(q, k, v)
    logits = fake_quantize(q, RTN, -1) @ fake_quantize(k, RTN, -1).mT / 4
    want = fake_quantize(logits.softmax(-1), RTN, -1) @ fake_quantize(v, RTN, -2)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    wrong = fake_quantize(logits.softmax(-1), RTN, -1) @ fake_quantize(v, RTN, -1)
    assert not torch.allclose(got, wrong, atol=1e-3)


def test_rotated_along_the_heads_channels() -> None:
    q, k, v = (t.detach() for t in tensors(32, 32))
    got = under(Gemm(a=RTN, b=RTN, hadamard=16))(q, k, v)

    def turned(x: Tensor, axis: int) -> Tensor:
        return fake_quantize(rotate(x, axis), RTN, axis)

    logits = turned(q, -1) @ turned(k, -1).mT / 32**0.5
    want = turned(logits.softmax(-1), -1) @ turned(v, -2)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_gradients_pass_straight_through() -> None:
    q, k, v = tensors()
    out = under(Gemm(a=RTN, b=RTN))(q, k, v)
    out.sum().backward()
    with torch.no_grad():
        p = fake_quantize((fake_quantize(q, RTN) @ fake_quantize(k, RTN).mT / 4).softmax(-1), RTN)
    torch.testing.assert_close(v.grad, p.sum(-2)[..., None].expand_as(v))
    assert q.grad is not None
    assert q.grad.isfinite().all()


def test_integers_per_token_and_low_precision_inputs() -> None:
    spec = QuantSpec(format=INT8, granularity=Granularity.TOKEN)
    q, k, v = tensors()
    want = F.scaled_dot_product_attention(q, k, v)
    got = under(Gemm(a=spec, b=spec))(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert got.dtype is torch.bfloat16
    torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        inside = under(Gemm(a=spec, b=spec))(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert torch.equal(inside, got)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_query_that_may_look_nowhere_gets_zeros_and_spoils_no_other(kind: str) -> None:
    q, k, v = tensors()
    mask = torch.ones(12, 20, dtype=torch.bool)
    mask[3] = False
    mask[5, 2:] = False
    if kind == "float":
        mask = torch.zeros(12, 20).masked_fill(~mask, -torch.inf)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert (want[..., 3, :] == 0).all()
    torch.testing.assert_close(under(Gemm())(q, k, v, mask), want, rtol=1e-5, atol=1e-6)
    got = under(Gemm(a=RTN, b=RTN))(q, k, v, mask)
    assert (got[..., 3, :] == 0).all()
    assert got.isfinite().all()
    got.square().sum().backward()
    for x in (q, k, v):
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_a_planted_quantizer_sees_all_four_operands() -> None:
    q, k, v = tensors()
    module = under(Gemm(a=RTN, b=RTN))
    seen = []

    def spy(x: Tensor, operand: Operand, role: Role, generator: object) -> Tensor:
        seen.append((role.gemm, role.operand, operand.axes))
        return x

    module.setup = replace(module.setup, quantizer=spy)  # type: ignore[arg-type, type-var]
    want = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(module(q, k, v), want, rtol=1e-5, atol=1e-6)
    assert seen == [
        ("attention", name, axis) for name, axis in zip("qkpv", (-1, -1, -1, -2), strict=True)
    ]


def test_dropout_only_while_training() -> None:
    q, k, v = tensors()
    module = under(Gemm(a=RTN, b=RTN), dropout=0.5)
    torch.manual_seed(0)
    assert not torch.equal(module(q, k, v), module(q, k, v))
    module.eval()
    assert torch.equal(module(q, k, v), module(q, k, v))
