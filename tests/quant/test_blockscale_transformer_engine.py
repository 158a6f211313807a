"""NVFP4 against Transformer Engine's reference, live, on numbers made to tell formulas apart."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracles import transformer_engine as te
from torch import Tensor, nn

from qprobe.quant import NVFP4, QuantSpec, Tile, convert, fake_quantize, quantize, rotate

SEED = int.from_bytes(os.urandom(4), "little")
TIES = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 0.5, 1, 1.5, 2, 3, 4, 6])


def spec(two_d: bool) -> QuantSpec:
    return QuantSpec(format=NVFP4, tile=Tile.TWO_D if two_d else Tile.ONE_D)


def neighbours(x: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """float32 numbers moved by up to two units in the last place."""
    bits = x.astype(np.float32).view(np.int32) + rng.integers(-2, 3, x.shape, dtype=np.int32)
    return np.where(x == 0, 0, bits.view(np.float32)).astype(np.float32)


def signs(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    return rng.choice([-1.0, 1.0], shape)


def around_powers_of_two(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Every magnitude, so also every amax, is a power of two or its neighbour."""
    return neighbours(signs(rng, shape) * 2.0 ** rng.integers(-12, 1, shape), rng)


def around_ties(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Midpoints and grid points under a block scale that E4M3 holds exactly, and neighbours."""
    scale = 2.0 ** rng.integers(-6, 8, (shape[0], 1)) * rng.integers(8, 15, (shape[0], 1)) / 8
    x = rng.choice(TIES, shape) * signs(rng, shape) * scale
    x[0, 0] = 2688.0
    return neighbours(x, rng)


def scales_on_midpoints(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Block maxima whose scale falls halfway between two E4M3 numbers, subnormal ones included."""
    amax = rng.uniform(1, 2)
    x = rng.standard_normal(shape) * 1e-8
    starts = x[:, ::16]
    middle = (1 + (2 * rng.integers(0, 8, starts.shape) + 1) / 16) * 2.0 ** rng.integers(
        -8, 8, starts.shape
    )
    starts[:] = middle * 6 * amax / 2688
    x[0, 0] = amax
    return neighbours(x, rng)


def many_octaves(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    return signs(rng, shape) * 2.0 ** rng.uniform(-40, 40, shape)


def subnormal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    x = rng.integers(-1000, 1001, shape) * 2.0**-149
    x[1::2] *= 2.0**20
    return x


def huge(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    return rng.uniform(-1, 1, shape) * 3.4e38


def sparse(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape) * (rng.random(shape) < 0.02)


def zeros(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    return np.zeros(shape)


Make = Callable[[np.random.Generator, tuple[int, int]], np.ndarray[Any, Any]]
INPUTS: list[Make] = [
    around_powers_of_two,
    around_ties,
    scales_on_midpoints,
    many_octaves,
    subnormal,
    huge,
    sparse,
    zeros,
]


def assert_same_operand(x: Tensor, want: te.Operand, how: QuantSpec, axis: int) -> None:
    q = quantize(x, how, axis)
    codes, scale = (q.codes, q.scale) if axis == 1 else (q.codes.T, q.scale.T)
    # The reference drops the sign of what rounds to zero; its CUDA kernels keep it, as we do.
    codes = torch.where(codes == 8, 0, codes)
    assert torch.equal(q.amax, want.amax.view(())), f"seed {SEED}"
    assert torch.equal(scale, want.scale), f"seed {SEED}"
    assert torch.equal(codes, torch.where(want.codes == 8, 0, want.codes)), f"seed {SEED}"


@pytest.mark.parametrize("two_d", [False, True], ids=["1d", "2d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("make", INPUTS, ids=lambda make: make.__name__)
def test_codes_scales_and_amax(make: Make, dtype: torch.dtype, two_d: bool) -> None:
    rng = np.random.default_rng(SEED)
    for shape in ((128, 256), (34, 50), (2, 18), (300, 16)):
        x = torch.from_numpy(make(rng, shape).astype(np.float32)).to(dtype)
        if not x.isfinite().all():
            x = x.clamp(-3e38, 3e38)
        want = te.quantize(x, two_d=two_d)
        assert_same_operand(x, want.rows, spec(two_d), 1)
        assert_same_operand(x, want.columns, spec(two_d), 0)


@pytest.mark.parametrize("make", INPUTS[:4], ids=lambda make: make.__name__)
def test_rotated_columns(make: Make, implementation: str) -> None:
    """In bfloat16, as the reference rotates; the rowwise copy keeps the original amax."""
    rng = np.random.default_rng(SEED)
    x = torch.from_numpy(make(rng, (128, 48)).astype(np.float32)).bfloat16()
    want = te.quantize(x, rotated=True)
    assert_same_operand(x, want.rows, spec(False), 1)
    turned = rotate(x, 0)
    theirs = te.quantizer(rotated=True)._apply_rht(x.T.contiguous()).T
    # 16 products are added in an order of each one's own: a last bit may differ.
    assert (turned == theirs).float().mean() > 0.999
    assert_same_operand(theirs.contiguous(), want.columns, spec(False), 0)


@pytest.mark.parametrize("recipe", ["nvfp4", "nvfp4-2d-rht"])
def test_a_linear_layer(recipe: str) -> None:
    """Output and both gradients against the reference's matrix products, in bfloat16."""
    g = torch.Generator().manual_seed(SEED)
    x, w, dy = (torch.randn(s, generator=g).bfloat16() for s in ((96, 64), (32, 64), (96, 32)))
    rht = "rht" in recipe
    layer = nn.Linear(64, 32, bias=False, dtype=torch.bfloat16)
    layer.weight = nn.Parameter(w.clone())
    convert(layer, recipe, layers="all")
    point = x.clone().requires_grad_()
    y = layer(point)
    y.backward(dy)

    kinds = te.reference().gemm.GEMMType
    qx, qdy = (te.quantize(t, rotated=rht).own for t in (x, dy))
    qw = te.quantize(w, two_d=rht).own

    def product(a: Any, b: Any, sides: str, kind: Any) -> Tensor:
        halves = [
            (q.data_t, q.scale_t) if side == "t" else (q.data, q.scale)
            for q, side in ((a, sides[0]), (b, sides[1]))
        ]
        (da, sa), (db, sb) = halves
        arguments = {"sx": sa, "sw": sb, "qresult_x": a, "qresult_w": b, "gemm_type": kind}
        result: Tensor = te.quantizer().qgemm(da, db, None, torch.float32, **arguments)
        return result

    for got, want in (
        (y, product(qx, qw, "--", kinds.FPROP)),
        (point.grad, product(qdy, qw, "-t", kinds.DGRAD)),
        (layer.weight.grad, product(qdy, qx, "tt", kinds.WGRAD)),
    ):
        assert got is not None
        atol = 1e-5 * want.abs().max().item()
        torch.testing.assert_close(got.float(), want, rtol=2.0**-8, atol=atol)


def test_values_are_codes_under_the_references_scales() -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(SEED)).bfloat16()
    want = te.quantize(x).rows
    numbers = te.reference().cast_from_fp4x2(te.quantize(x).own.data, torch.float32)
    decode = (want.scale * want.amax) * torch.tensor(1 / 2688)
    values = numbers.view(64, 4, 16) * decode.unsqueeze(-1)
    assert torch.equal(fake_quantize(x.float(), spec(False)), values.view(64, 64))
