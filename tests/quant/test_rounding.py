"""Rounding against tables: every tie, every random byte, every E4M3 value."""

from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import nvfp4 as oracle

from qprobe.quant import NVFP4, QuantSpec, Rounding, fake_quantize
from qprobe.quant.formats import E2M1
from qprobe.quant.rounding import (
    e2m1_magnitudes_,
    e2m1_nearest_,
    e2m1_stochastic,
    e4m3_nearest,
    power_below,
)

GOLDEN = Path(__file__).parents[1] / "data" / "nvfp4" / "sr_bytes.npz"


def neighbours(values: np.ndarray) -> torch.Tensor:
    """Each number with the floats just below and just above it, in both signs."""
    base = values.astype(np.float32)
    near = [base, np.nextafter(base, np.float32(-9e9)), np.nextafter(base, np.float32(9e9))]
    both = np.concatenate(near)
    return torch.from_numpy(np.concatenate([both, -both]))


def test_e2m1_at_every_decision_point() -> None:
    grid = np.array(E2M1.magnitudes)
    y = neighbours(np.concatenate([grid, (grid[1:] + grid[:-1]) / 2, [6.375, 7.0, 1e30]]))
    y = y[y != 0]
    code = oracle.e2m1_code(y.numpy())
    want = np.where(code & 8, -1, 1) * oracle.MAGNITUDES[code & 7]
    np.testing.assert_array_equal(e2m1_nearest_(y.clone(), torch.empty_like(y)).numpy(), want)


def test_magnitudes_below_seven_are_rounded_alike_by_the_shorter_way() -> None:
    grid = np.array(E2M1.magnitudes)
    y = neighbours(np.concatenate([grid, (grid[1:] + grid[:-1]) / 2, [6.375, 6.9]])).abs()
    want = e2m1_nearest_(y.clone(), torch.empty_like(y))
    assert torch.equal(e2m1_magnitudes_(y.clone(), torch.empty_like(y)), want)


def test_e2m1_ties_go_to_the_even_code() -> None:
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    got = e2m1_nearest_(ties.clone(), torch.empty(7)).tolist()
    assert got == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]


def test_e4m3_matches_pytorchs_cast_and_the_table_at_every_value_and_midpoint() -> None:
    middles = (oracle.E4M3[1:] + oracle.E4M3[:-1]) / 2
    x = neighbours(np.concatenate([oracle.E4M3, middles]))
    x = x[(x >= 0) & (x <= 448)]
    got = e4m3_nearest(x)
    np.testing.assert_array_equal(got.numpy(), oracle.e4m3(x.numpy()))
    assert torch.equal(got, x.to(torch.float8_e4m3fn).float())
    assert e4m3_nearest(torch.tensor(torch.nan)).isnan()


def test_power_below_is_exact_where_log2_is_not() -> None:
    x = np.nextafter(np.float32(8), np.float32(0))
    assert power_below(torch.tensor(x)).item() == 4.0
    assert np.floor(np.log2(x)) == 3.0, "the trap is gone: float32 log2 is exact here"


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_stochastic_rounding_for_each_of_the_256_bytes(sign: float) -> None:
    with np.load(GOLDEN, allow_pickle=False) as golden:
        x, codes = torch.from_numpy(golden["x"]), golden["codes"]
    if sign < 0:
        x, codes = -x, codes ^ 8
    for byte in range(256):
        got = e2m1_stochastic(x, torch.full(x.shape, byte, dtype=torch.uint8))
        want = codes[:, byte]
        value = oracle.MAGNITUDES[want & 7] * np.where(want & 8, -1, 1)
        np.testing.assert_array_equal(got.numpy(), value, err_msg=f"{byte=}")
    assert codes.shape == (151, 256)


def test_the_kernels_round_stochastically_as_the_golden_table(implementation: str) -> None:
    """Through the whole pipeline: an amax of 6·448 and a block absmax of 6 make both factors 1."""
    with np.load(GOLDEN, allow_pickle=False) as golden:
        x, codes = golden["x"], golden["codes"]
    keep = np.abs(x) <= 6
    x, codes = x[keep], codes[keep]
    tensor = torch.zeros(len(x) + 1, 16)
    tensor[:-1, 0] = torch.from_numpy(x)
    tensor[:-1, 1] = 6.0
    tensor[-1, 0] = 2688.0
    seen = set()
    for seed in range(40):
        spec = QuantSpec(format=NVFP4, rounding=Rounding.STOCHASTIC)
        got = fake_quantize(tensor, spec, 1, torch.Generator().manual_seed(seed))[:-1, 0]
        words = torch.empty(tensor.numel() // 8, dtype=torch.int64)
        words.random_(-(2**63), None, generator=torch.Generator().manual_seed(seed))
        byte = words.view(torch.uint8).view(tensor.shape)[:-1, 0].numpy()
        want = codes[np.arange(len(x)), byte]
        value = oracle.MAGNITUDES[want & 7] * np.where(want & 8, -1, 1)
        np.testing.assert_array_equal(got.numpy(), value)
        seen |= set(byte.tolist())
    assert len(seen) > 250


def test_stochastic_rounding_is_unbiased_as_specified(generator: torch.Generator) -> None:
    """P(up) = floor(256 f)/256: the mean over many draws, within 4.5 standard errors."""
    draws = 20_000
    for low, gap in ((0.0, 0.5), (1.5, 0.5), (2.0, 1.0), (4.0, 2.0)):
        for fraction in (0.0, 0.003, 0.1, 0.5, 0.77, 0.996):
            y = torch.full((draws,), low + gap * fraction)
            noise = torch.randint(0, 256, (draws,), dtype=torch.uint8, generator=generator)
            up = (e2m1_stochastic(y, noise) > low).double().mean().item()
            f = float((y[0].double() - low) / gap)
            p = np.floor(256 * f) / 256
            assert abs(up - p) <= 4.5 * np.sqrt(max(p * (1 - p), 1e-9) / draws)


def test_what_lies_on_the_grid_never_moves(generator: torch.Generator) -> None:
    grid = torch.tensor(E2M1.magnitudes).repeat(256)
    noise = torch.arange(256, dtype=torch.uint8).repeat_interleave(8)
    assert torch.equal(e2m1_stochastic(grid, noise), grid)
