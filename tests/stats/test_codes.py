import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from qprobe.errors import InputError
from qprobe.quant import MXFP4, NVFP4, QuantSpec, Tile, quantize
from qprobe.quant.formats import E2M1
from qprobe.stats import block_scales, code_occupancy, e2m1_values, in_blocks, range_octaves
from qprobe.stats.codes import scale_quantile

BLOCKS = QuantSpec(format=NVFP4)


def test_codes_have_the_values_that_the_format_says():
    expected = torch.tensor([*E2M1.magnitudes, *(-m for m in E2M1.magnitudes)])
    for dtype in (torch.uint8, torch.int8, torch.int64):
        assert torch.equal(e2m1_values(torch.arange(16).to(dtype)), expected)


def test_occupancy_is_numpys_count(generator):
    codes = torch.randint(16, (70, 33), generator=generator).to(torch.uint8)
    state = code_occupancy(codes)
    counts = np.bincount(codes.numpy().ravel(), minlength=16)
    assert state.arrays()["codes"].tolist() == counts.tolist()
    found = state.scalars()
    assert found["code5"].item() == pytest.approx(counts[5] / codes.numel())
    values, shares = np.unique(e2m1_values(codes).numpy(), return_counts=True)
    assert len(values) == 15
    assert found["effective_values"].item() == pytest.approx(math.exp(entropy(shares)))


@pytest.mark.parametrize("code", [16, 255])
def test_what_is_no_code_is_refused_when_read(code):
    codes = torch.tensor([1, 2, code], dtype=torch.uint8)
    with pytest.raises(InputError, match=r"1 of 3 codes are not in 0\.\.15"):
        code_occupancy(codes).scalars()


def test_codes_are_integers():
    with pytest.raises(InputError, match=r"got torch.float32"):
        code_occupancy(torch.zeros(3))


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_blocks_hold_each_code_once_and_zeros_after_the_end(axis, dtype):
    codes = torch.arange(3 * 5 * 7).reshape(3, 5, 7).to(dtype)
    blocks = in_blocks(codes, 4, axis)
    last = codes.movedim(axis, -1)
    assert blocks.shape == (*last.shape[:-1], -(-last.shape[-1] // 4), 4)
    flat = blocks.flatten(-2)
    assert torch.equal(flat[..., : last.shape[-1]], last)
    assert not flat[..., last.shape[-1] :].any()


@pytest.mark.parametrize("value", [2.0**-9, 0.013671875, 1.0, 1.875, 448.0, 2.0**-127, 2.0**127])
def test_a_stored_scale_is_its_own_quantile(value):
    scales = torch.full((3,), value)
    found = block_scales(scales, torch.full((3, 2), 7)).scalars()
    for key in ("min", "p10", "median", "p90", "max", "mean"):
        assert found[f"scale_log2_{key}"].item() == pytest.approx(math.log2(value), abs=1e-12)


def test_every_scale_of_both_formats_is_alone_in_its_bin_and_in_the_array():
    e4m3 = torch.arange(1, 127, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    e8m0 = 2.0 ** torch.arange(-127, 128, dtype=torch.float64)
    for scales in (e4m3, e8m0):
        state = block_scales(scales, torch.full((len(scales), 2), 7))
        assert state.histogram.max() == 1
        assert state.histogram.sum() == len(scales)
        octave = scales.log2().floor()
        eighths = ((octave + 128) * 8 + (scales / 2.0**octave - 1.0) * 8).long()
        assert torch.equal(state.arrays()["scales"].nonzero().flatten(), eighths.sort().values)
    assert state.arrays()["scales"].shape == (256 * 8,)


def test_what_lies_between_powers_of_two_far_out_counts_for_its_octave():
    found = block_scales(torch.tensor([1.75 * 2.0**40, 1.5 * 2.0**-40]), torch.full((2, 2), 7))
    assert found.scalars()["scale_log2_max"].item() == 40.0
    assert found.scalars()["scale_log2_min"].item() == -40.0


def test_the_median_of_three_is_the_middle_one():
    found = block_scales(torch.tensor([4.0, 1.0, 2.0]), torch.full((3, 2), 7)).scalars()
    assert found["scale_log2_median"].item() == 1.0


def test_quantiles_are_numpys_inverted_cdf(generator):
    x = torch.randn(4000, 16, generator=generator).exp()
    q = quantize(x, BLOCKS)
    state = block_scales(q.scale, in_blocks(q.codes, 16))
    for share in (0.1, 0.5, 0.9):
        expected = np.quantile(np.log2(q.scale.numpy()), share, method="inverted_cdf")
        assert scale_quantile(state.histogram, share).item() == pytest.approx(expected)
    assert state.histogram.sum() == q.scale.numel()
    # Every E4M3 value is alone in its bin.
    assert (state.histogram > 0).sum() == len(q.scale.unique())


@pytest.mark.parametrize("spec", [BLOCKS, QuantSpec(format=MXFP4)], ids=str)
def test_the_statistics_of_quantized_tensors(spec, generator):
    x = torch.randn(32, 96, generator=generator)
    x[3] = 0.0
    q = quantize(x, spec)
    codes = in_blocks(q.codes, spec.format.block)
    found = block_scales(q.scale, codes).scalars()
    assert found["n"].item() == q.scale.numel()
    if spec is BLOCKS:
        assert found["zero_scale"].item() == pytest.approx(1 / 32)
        assert found["scale_log2_max"].item() == pytest.approx(math.log2(448))
    assert found["flushed"].item() == 0.0
    left = e2m1_values(codes).abs().double().flatten(0, 1)
    rows = [row[row > 0] for row in left if (row > 0).any()]
    expected = np.mean([math.log2(row.max() / row.min()) for row in rows])
    assert found["range_octaves"].item() == pytest.approx(expected)


def test_a_block_far_below_the_tensor_is_flushed_and_a_zero_block_is_not():
    x = torch.ones(1, 48)
    x[:, 16:32] = 1e-7
    x[:, 32:] = 0.0
    q = quantize(x, BLOCKS)
    found = block_scales(q.scale, in_blocks(q.codes, 16)).scalars()
    assert found["zero_scale"].item() == pytest.approx(2 / 3)
    assert found["flushed"].item() == pytest.approx(1 / 3)
    assert found["empty"].item() == 0.0


def test_a_small_row_of_a_tile_is_empty():
    x = torch.ones(16, 16)
    x[5] = 1e-3
    q = quantize(x, QuantSpec(format=NVFP4, tile=Tile.TWO_D))
    found = block_scales(q.scale, in_blocks(q.codes, 16)).scalars()
    assert found["empty"].item() == pytest.approx(1 / 16)
    assert found["zero_scale"].item() == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_scales_that_cannot_be_are_counted(bad):
    found = block_scales(torch.tensor([1.0, bad]), torch.full((2, 4), 7)).scalars()
    assert found["invalid"].item() == 0.5
    assert found["scale_log2_mean"].item() == 0.0


def test_the_range_of_a_block_by_hand():
    blocks = torch.tensor([[0.25, -8.0, 0.0], [3.0, 3.0, -3.0]], dtype=torch.bfloat16)
    assert range_octaves(blocks).tolist() == [5.0, 0.0]


def test_codes_that_are_not_in_blocks_are_refused():
    with pytest.raises(InputError, match=r"codes of \(2, 16\) do not stand in blocks"):
        block_scales(torch.zeros(2, 1), torch.zeros(2, 16, dtype=torch.uint8))
    with pytest.raises(InputError, match="at least one element"):
        in_blocks(torch.zeros(4), 0)
