"""The kernel of attention against exact arithmetic and against PyTorch."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qprobe import native
from qprobe.quant.attention import ScaledDotProduct, attending_by_kernel
from qprobe.quant.attention_native import attend, usable

pytestmark = pytest.mark.skipif(
    native.kernels is None or not native.kernels.attends(), reason=native.describe()
)
#: Samples, heads, queries, keys, channels of keys and of values.
SIZES = [
    (1, 1, 1, 1, 1, 1),
    (2, 3, 7, 17, 5, 3),
    (3, 2, 8, 16, 16, 16),
    (2, 2, 65, 65, 32, 48),
    (1, 2, 20, 33, 40, 17),
    (1, 1, 9, 100, 64, 80),
]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def given(size: tuple[int, ...], large: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    b, h, queries, keys, depth, width = size
    q, k = numbers(b, h, queries, depth) * large, numbers(b, h, keys, depth, seed=1)
    return q, k, numbers(b, h, keys, width, seed=2)


def exactly(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    logits = q.double() @ k.double().mT * scale
    if bias is not None:
        logits = logits + bias.double()
    return logits.softmax(-1) @ v.double()


def error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).abs().max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("large", [0.01, 1.0, 20.0])
def test_it_attends_as_exactly_as_pytorch(size, large):
    q, k, v = given(size, large)
    expected = exactly(q, k, v, None, 0.3)
    of_torch = error(F.scaled_dot_product_attention(q, k, v, scale=0.3), expected)
    got = attend(q, k, v, None, 0.3)
    assert got.shape == expected.shape
    assert error(got, expected) <= 2 * of_torch + 1e-6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shared", ["nothing", "samples", "samples and heads", "keys"])
def test_a_bias_is_added_wherever_it_is_the_same(size, shared):
    b, h, queries, keys, _, _ = size
    shape = {
        "nothing": (b, h, queries, keys),
        "samples": (1, h, queries, keys),
        "samples and heads": (queries, keys),
        "keys": (b, 1, queries, 1),
    }[shared]
    q, k, v = given(size)
    bias = numbers(*shape, seed=3) * 3
    assert error(attend(q, k, v, bias, 0.5), exactly(q, k, v, bias, 0.5)) < 3e-6


def test_tokens_may_lie_as_one_product_left_them():
    """q, k and v of one linear layer; and channels that are not side by side."""
    q, k, v = numbers(4, 21, 3, 2, 16).permute(2, 0, 3, 1, 4)
    expected = exactly(q, k, v, None, 0.25)
    assert error(attend(q, k, v, None, 0.25), expected) < 1e-6
    turned = [x.mT.contiguous().mT for x in (q, k, v)]
    assert torch.equal(attend(*turned, None, 0.25), attend(q, k, v, None, 0.25))
    bias = numbers(4, 2, 21, 21).mT
    assert error(attend(q, k, v, bias, 0.25), exactly(q, k, v, bias, 0.25)) < 3e-6


def test_each_head_is_on_its_own():
    q, k, v = given((3, 2, 19, 23, 16, 16))
    all_ = attend(q, k, v, None, 0.25)
    assert torch.equal(attend(q[1:2], k[1:2], v[1:2], None, 0.25), all_[1:2])
    assert torch.equal(attend(q[:, 1:], k[:, 1:], v[:, 1:], None, 0.25), all_[:, 1:])


def test_a_query_that_may_look_nowhere_attends_to_nothing():
    q, k, v = given((1, 1, 9, 20, 16, 16))
    bias = torch.zeros(9, 20)
    bias[3], bias[4, 1:] = -math.inf, -math.inf
    got = attend(q, k, v, bias, 0.25)
    assert got[0, 0, 3].eq(0).all()
    assert torch.equal(got[0, 0, 4], v[0, 0, 0])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 5, 18])
def test_what_is_no_number_is_seen(wrong, place):
    q, k, v = given((1, 1, 9, 19, 16, 16))
    k[0, 0, place, 2] = wrong
    got = attend(q, k, v, None, 0.25)
    expected = F.scaled_dot_product_attention(q, k, v, scale=0.25)
    assert torch.equal(got.isnan(), expected.isnan())
    assert got.isnan().any()


def test_far_apart_logits_underflow_to_nothing():
    q, k, v = given((1, 1, 8, 16, 16, 16), large=1e4)
    assert error(attend(q, k, v, None, 1.0), exactly(q, k, v, None, 1.0)) < 1e-5


@pytest.mark.parametrize("depth", [0.3, 0.7, 5.0, 80.0])
def test_weights_are_exponentials_to_the_last_digits(depth):
    """One channel and values that tell keys apart: what comes out is the softmax itself."""
    keys = 64
    k = -torch.linspace(0, depth, keys).view(1, 1, keys, 1)
    got = attend(torch.ones(1, 1, 1, 1), k, torch.eye(keys)[None, None], None, 1.0)
    expected = k.double().flatten().softmax(0)
    assert (got.double().flatten() / expected - 1).abs().max() < 2.5e-7


@pytest.mark.parametrize(
    "changed",
    [
        lambda q, k, v: (q.double(), k.double(), v.double(), None),
        lambda q, k, v: (q.bfloat16(), k.bfloat16(), v.bfloat16(), None),
        lambda q, k, v: (q, k, v, torch.ones(9, 9, dtype=torch.bool)),
        lambda q, k, v: (q[0], k[0], v[0], None),
        lambda q, k, v: (q, k[:, :1], v[:, :1], None),
        lambda q, k, v: (q[:0], k[:0], v[:0], None),
    ],
)
def test_others_are_left_to_pytorch(changed):
    assert usable(*given((2, 2, 9, 9, 16, 16)), None)
    assert not usable(*changed(*given((2, 2, 9, 9, 16, 16))))


def test_a_module_attends_by_kernel_inside_alone():
    module = ScaledDotProduct().eval()
    q, k, v = given((2, 2, 33, 33, 16, 16))
    by_kernel, plain = attend(q, k, v, None, 0.25), F.scaled_dot_product_attention(q, k, v)
    assert not torch.equal(by_kernel, plain)
    with torch.no_grad():
        assert torch.equal(module(q, k, v), plain)
        with attending_by_kernel([module]), attending_by_kernel([module]):
            assert torch.equal(module(q, k, v), by_kernel)
            with torch.enable_grad():
                assert torch.equal(module(q, k, v), plain)
            with torch.autocast("cpu", torch.bfloat16):
                assert module(q, k, v).dtype == torch.bfloat16
        assert torch.equal(module(q, k, v), plain)
    assert "by_kernel" not in vars(module)
