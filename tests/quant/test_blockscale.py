"""NVFP4 to the bit: golden vectors of Transformer Engine, an independent oracle, the traps."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracles import nvfp4 as oracle

from qprobe import native
from qprobe.quant import (
    MXFP4,
    NVFP4,
    QuantSpec,
    Rounding,
    Tile,
    blockscale,
    fake_quantize,
    quantize,
    rotate,
)

GOLDEN = Path(__file__).parents[1] / "data" / "nvfp4"
CASES = sorted(path.stem for path in GOLDEN.glob("[12]d_*.npz"))
RHT_CASES = sorted(path.stem for path in GOLDEN.glob("rht_*.npz"))
ONE_D = QuantSpec(format=NVFP4)
TWO_D = QuantSpec(format=NVFP4, tile=Tile.TWO_D)
SR = QuantSpec(format=NVFP4, rounding=Rounding.STOCHASTIC)


def load(name: str) -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as data:
        return {key: data[key] for key in data.files}


def assert_same_bits(got: torch.Tensor, want: NDArray[Any]) -> None:
    """Equal to the bit, the sign of zero included."""
    have = got.contiguous().numpy()
    assert have.shape == want.shape
    assert have.dtype == want.dtype
    np.testing.assert_array_equal(
        have.view(np.uint8), np.ascontiguousarray(want).view(np.uint8), strict=True
    )


def test_the_golden_set_is_complete() -> None:
    assert len(CASES) == 22
    assert len(RHT_CASES) == 7


@pytest.mark.parametrize("name", CASES)
def test_golden_rows(name: str, implementation: str) -> None:
    want = load(name)
    spec = TWO_D if name.startswith("2d") else ONE_D
    x = torch.from_numpy(want["x"])
    q = quantize(x, spec)
    assert_same_bits(q.codes, want["codes"])
    assert_same_bits(q.scale, want["scale"])
    assert_same_bits(q.amax.view(1), want["amax"])
    assert_same_bits(q.dequantize(), want["dequant"])
    assert_same_bits(fake_quantize(x, spec), want["dequant"])


@pytest.mark.parametrize("name", [name for name in CASES if "codes_t" in load(name)])
def test_golden_columns(name: str, implementation: str) -> None:
    """The transposed operand, from the same memory."""
    want = load(name)
    spec = TWO_D if name.startswith("2d") else ONE_D
    x = torch.from_numpy(want["x"])
    q = quantize(x, spec, axis=0)
    assert_same_bits(q.codes.T, want["codes_t"])
    assert_same_bits(q.scale.T, want["scale_t"])
    assert_same_bits(q.dequantize().T, want["dequant_t"])
    assert_same_bits(fake_quantize(x, spec, axis=0).T, want["dequant_t"])


@pytest.mark.parametrize("name", RHT_CASES)
def test_golden_rotated(name: str, implementation: str) -> None:
    want = load(name)
    x = torch.from_numpy(want["x"])
    rotated = rotate(x.bfloat16() if "_bf16_" in name else x, axis=0).T.float()
    if "_f32_" in name:  # the order of 16 additions is free
        np.testing.assert_allclose(
            rotated, want["x_rot"], rtol=0, atol=2e-6 * abs(want["x_rot"]).max()
        )
    else:
        assert_same_bits(rotated, want["x_rot"])
    q = quantize(torch.from_numpy(want["x_rot"]), ONE_D)
    assert_same_bits(q.codes, want["codes_t"])
    assert_same_bits(q.scale, want["scale_t"])
    assert_same_bits(q.amax.view(1), want["amax_t"])
    assert_same_bits(q.dequantize(), want["dequant_t"])


def fresh(rng: np.random.Generator, rows: int, columns: int) -> torch.Tensor:
    """bfloat16 numbers of some distribution: the exact ties of bfloat16 separate wrong formulas."""
    kind = rng.integers(6)
    x = rng.standard_normal((rows, columns))
    if kind == 1:
        x = np.exp(rng.uniform(0.5, 3) * x) * np.sign(rng.standard_normal(x.shape))
    elif kind == 2:
        x *= 10.0 ** rng.uniform(-6, 2, (rows, 1))
    elif kind == 3:
        x = rng.integers(-12, 13, x.shape).astype(float)
    elif kind == 4:
        x *= rng.random(x.shape) < 0.05
    elif kind == 5:
        x = rng.choice(oracle.MAGNITUDES, x.shape) * rng.choice([0.25, 1, 1.25, 7], (rows, 1))
    x *= 2.0 ** rng.uniform(-60, 60)
    return torch.from_numpy(x.astype(np.float32)).bfloat16() + 0.0  # no negative zero


def test_five_million_fresh_numbers() -> None:
    """Codes, scales, amax and values on numbers that nobody has seen before."""
    seed = int.from_bytes(os.urandom(4), "little")
    rng = np.random.default_rng(seed)
    seen = 0
    for turn in range(11):
        x = fresh(rng, 512, 1000 if turn % 2 else 1024)
        two_d, axis = bool(rng.integers(2)), int(rng.integers(2))
        spec = TWO_D if two_d else ONE_D
        want = oracle.quantize(x.float().numpy(), axis=axis, two_d=two_d)
        q = quantize(x, spec, axis)
        values = q.dequantize(torch.float32)
        for got, expected in (
            (q.codes.numpy(), want.codes),
            (q.scale.numpy(), want.scale),
            (q.amax.numpy(), want.amax),
            (values.numpy(), want.dequant),
            (fake_quantize(x.float(), spec, axis).numpy(), want.dequant),
            (fake_quantize(x, spec, axis).float().numpy(), values.bfloat16().float().numpy()),
        ):
            np.testing.assert_array_equal(got, expected, err_msg=f"{seed=} {turn=}")
        seen += x.numel()
    assert seen > 5e6


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(48, 64), (5, 40), (33, 17), (1, 3), (300, 16)])
def test_every_implementation_matches_the_oracle(
    shape: tuple[int, int], dtype: torch.dtype, axis: int, implementation: str
) -> None:
    rng = np.random.default_rng(sum(shape) + axis)
    for spec, two_d in ((ONE_D, False), (TWO_D, True)):
        x = (torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) * 3).to(dtype)
        want = oracle.quantize(x.float().numpy(), axis=axis, two_d=two_d)
        got = fake_quantize(x.float(), spec, axis)
        assert_same_bits(got, want.dequant)
        low = fake_quantize(x, spec, axis)
        assert torch.equal(
            low.view(torch.int16) if dtype is torch.bfloat16 else low,
            (got.to(dtype).view(torch.int16) if dtype is torch.bfloat16 else got),
        )


@pytest.mark.parametrize("piece", [1, 48, 700])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_size_of_a_piece_changes_nothing(
    axis: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "kernels", None)
    monkeypatch.setattr(blockscale, "_PIECE", piece)
    for shape in ((33, 40), (7, 200)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(piece))
        for spec, two_d in ((ONE_D, False), (TWO_D, True)):
            want = oracle.quantize(x.numpy(), axis=axis, two_d=two_d)
            assert_same_bits(fake_quantize(x, spec, axis), want.dequant)
        drawn = fake_quantize(x, SR, axis, torch.Generator().manual_seed(1))
        monkeypatch.setattr(blockscale, "_PIECE", 1 << 19)
        assert torch.equal(drawn, fake_quantize(x, SR, axis, torch.Generator().manual_seed(1)))
        monkeypatch.setattr(blockscale, "_PIECE", piece)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(64, 48), (40, 21)])
def test_stochastic_rounding_reads_the_generators_bytes(
    shape: tuple[int, int], axis: int, implementation: str
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64)
    words.random_(-(2**63), None, generator=torch.Generator().manual_seed(7))
    noise = words.view(torch.uint8)[: x.numel()].view(shape)
    want = oracle.quantize(x.numpy(), axis=axis, noise=noise.numpy())
    got = fake_quantize(x, SR, axis, torch.Generator().manual_seed(7))
    assert_same_bits(got, want.dequant)
    q = quantize(x, SR, axis, torch.Generator().manual_seed(7))
    assert_same_bits(q.codes, np.ascontiguousarray(want.codes))
    assert_same_bits(q.dequantize(), want.dequant)


def test_memory_layout_changes_nothing(implementation: str, generator: torch.Generator) -> None:
    x = torch.randn(3, 20, 4, 6, generator=generator)
    shapes = [x, x.to(memory_format=torch.channels_last), x.permute(3, 1, 0, 2).permute(2, 1, 3, 0)]
    wide = torch.zeros(6, 40, 4, 6)
    wide[::2, ::2] = x
    shapes.append(wide[::2, ::2])
    for axis in range(4):
        for spec in (ONE_D, SR):
            draws = [fake_quantize(y, spec, axis, torch.Generator().manual_seed(3)) for y in shapes]
            assert all(torch.equal(draws[0], draw) for draw in draws[1:])
            q = quantize(shapes[1], spec, axis, torch.Generator().manual_seed(3))
            assert torch.equal(q.dequantize(), draws[0])


def test_a_transposed_matrix_draws_the_same_bytes(implementation: str) -> None:
    x = torch.randn(24, 40, generator=torch.Generator().manual_seed(0)).T
    for axis in (0, 1):
        got = fake_quantize(x, SR, axis, torch.Generator().manual_seed(3))
        want = fake_quantize(x.contiguous(), SR, axis, torch.Generator().manual_seed(3))
        assert torch.equal(got, want)


def test_2d_tiles_give_a_weight_and_its_transpose_the_same_codes() -> None:
    w = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(quantize(w, TWO_D, 1).codes, quantize(w, TWO_D, 0).codes)
    assert not torch.equal(quantize(w, ONE_D, 1).codes, quantize(w, ONE_D, 0).codes)


def test_2d_tiles_of_a_convolution_are_per_tap(implementation: str) -> None:
    w = torch.randn(20, 33, 3, 2, generator=torch.Generator().manual_seed(0))
    amax = w.abs().max()
    for axis in (0, 1):
        got = fake_quantize(w, TWO_D, axis)
        for i in range(3):
            for j in range(2):
                alone = torch.zeros(64, 64)
                alone[:20, :33] = w[:, :, i, j]
                alone[63, 63] = amax  # the tensor's own amax, in a tile of its own
                alone = fake_quantize(alone, TWO_D, 1)[:20, :33]
                assert torch.equal(got[:, :, i, j], alone)


class TestTraps:
    """Each formula that looks right and is not, next to the one that is."""

    def test_t1_number_over_tensor_is_a_reciprocal(self) -> None:
        amax = torch.linspace(0.5, 2, 4001)
        exact = np.float32(2688) / amax.numpy()
        factor = blockscale._TensorScale.of(amax)
        got = factor.block / torch.full_like(amax, 1 / 6)
        trap = (2688.0 / amax).numpy()
        assert (trap != exact).mean() > 0.1, "the trap is gone: PyTorch divides now"
        ours = np.float32(1) / exact
        np.testing.assert_array_equal(factor.decode.numpy(), ours)
        np.testing.assert_allclose(got.numpy(), exact, rtol=3e-7)

    def test_t2_a_scale_over_448_saturates(self) -> None:
        x = torch.tensor([[1.0] * 16])
        assert quantize(x, ONE_D).scale.item() == 448.0
        above = torch.tensor([449.0, 463.0, 465.0, 1e9])
        assert blockscale.e4m3_nearest(above).tolist() == [448.0] * 4

    def test_t3_subnormals_are_kept(self, implementation: str) -> None:
        x = torch.linspace(-1, 1, 32).view(2, 16) * 1e-35
        want = oracle.quantize(x.numpy())
        assert_same_bits(fake_quantize(x, ONE_D), want.dequant)
        decode = torch.tensor(1.0) / (torch.tensor(2688.0) / x.abs().max())
        assert 0 < decode < torch.finfo(torch.float32).tiny
        flushed = torch.tensor(0.0)
        assert not torch.equal(flushed, decode)

    def test_t4_zero_keeps_its_sign(self, implementation: str) -> None:
        x = torch.full((1, 16), -0.001)
        x[0, 0] = 1.0
        values = fake_quantize(x, ONE_D)
        assert (values[0, 1:] == 0).all()
        assert torch.signbit(values[0, 1:]).all()
        magic = (torch.tensor(-0.1) + 1.5 * 2**22) - 1.5 * 2**22
        assert not torch.signbit(magic), "the trap is gone: the magic number keeps the sign"
        assert quantize(x, ONE_D).codes[0, 1] == 8

    def test_t5_an_underflowing_block_is_zero_in_value(self, implementation: str) -> None:
        x = torch.full((2, 16), 1e-9)
        x[0] = 1.0
        q = quantize(x, ONE_D)
        assert q.scale[1] == 0
        assert (q.codes[1] == 7).all()
        assert (q.dequantize()[1] == 0).all()
        assert (fake_quantize(x, ONE_D)[1] == 0).all()

    def test_the_old_order_of_the_scale_is_told_apart(self) -> None:
        """E4M3((b/6)·S), before 2.14, stores other scales for some bfloat16 pairs (b, A)."""
        b = torch.arange(0x3F80, 0x4000, dtype=torch.int16).view(torch.bfloat16).float()
        amax = b[:, None] * 2.0 ** torch.arange(0, 9)
        amax = amax.reshape(-1, 1).expand(-1, 1)
        pairs_b = b.repeat(amax.shape[0], 1)
        s = torch.full_like(amax, 2688.0) / amax
        new = blockscale.e4m3_nearest(pairs_b * (s * (1 / 6)))
        old = blockscale.e4m3_nearest((pairs_b / torch.full_like(pairs_b, 6.0)) * s)
        assert 0 < (new != old).sum() < 0.01 * new.numel()
        at = (new != old).nonzero()[0]
        x = torch.zeros(2, 16)
        x[0, 0], x[1, 0] = pairs_b[at[0], at[1]], amax[at[0], 0]
        assert quantize(x, ONE_D).scale[0, 0] == new[at[0], at[1]]


def test_rotation_and_quantization_meet_in_the_linear_golden_vectors() -> None:
    """The six operands of a linear layer, as Transformer Engine quantizes them."""
    for name in ("linear_plain_64x64x32", "linear_2d_rht_64x64x32"):
        want = load(name)
        spec_w = TWO_D if "2d" in name else ONE_D
        x, w, g = (torch.from_numpy(want[key]).bfloat16() for key in "XWG")
        turn = (lambda t: rotate(t, 0)) if "rht" in name else (lambda t: t)
        for got, key in (
            (fake_quantize(x.float(), ONE_D, 1), "X_dq"),
            (fake_quantize(w.float(), spec_w, 1), "W_dq"),
            (fake_quantize(w.float(), spec_w, 0).T, "Wt_dq"),
            (fake_quantize(g.float(), ONE_D, 1), "G_dq"),
            (fake_quantize(turn(x).float(), ONE_D, 0).T, "Xt_dq"),
            (fake_quantize(turn(g).float(), ONE_D, 0).T, "Gt_dq"),
        ):
            assert_same_bits(got, want[key])


class TestMx:
    def test_the_scale_is_a_power_of_two_that_leaves_the_largest_at_4_to_8(self) -> None:
        x = torch.cat([torch.full((1, 32), 8 - 2.0**-20), torch.full((1, 32), 4.0)])
        q = quantize(x, QuantSpec(format=MXFP4))
        assert q.scale.flatten().tolist() == [1.0, 1.0]
        assert q.dequantize()[:, 0].tolist() == [6.0, 4.0]

    @pytest.mark.parametrize("length", [32, 64, 40, 7])
    def test_against_the_definition(self, length: int, implementation: str) -> None:
        x = torch.randn(9, length, generator=torch.Generator().manual_seed(length)) * 3
        got = fake_quantize(x, QuantSpec(format=MXFP4))
        for row in range(9):
            for first in range(0, length, 32):
                block = x[row, first : first + 32].numpy().astype(np.float64)
                scale = 2.0 ** (np.frexp(np.abs(block).max())[1] - 1 - 2)
                code = oracle.e2m1_code((block / scale).astype(np.float32))
                value = oracle.MAGNITUDES[code & 7] * np.where(code & 8, -1, 1) * scale
                np.testing.assert_array_equal(got[row, first : first + 32].numpy(), value)
        assert torch.equal(quantize(x, QuantSpec(format=MXFP4)).dequantize(), got)
