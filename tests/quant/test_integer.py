"""Integers against PyTorch's own fake quantization, value for value."""

import math

import pytest
import torch

from qprobe.errors import InputError
from qprobe.quant import (
    INT3,
    INT4,
    INT8,
    Granularity,
    IntFormat,
    QuantSpec,
    fake_quantize,
    integer,
    quantize,
)

FORMATS = [INT3, INT4, INT8]
DTYPES = [torch.float32, torch.bfloat16]


def sample(seed: int, *shape: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g) * torch.randn(shape, generator=g).exp()


def torch_per_channel(x: torch.Tensor, form: IntFormat, axis: int) -> torch.Tensor:
    """One scale per index of ``axis``, by PyTorch."""
    wide = x.float()
    others = [a for a in range(x.dim()) if a != axis]
    absmax = wide.abs().amax(others)
    scale = torch.where(absmax == 0, torch.tensor(1.0), absmax / torch.tensor(float(form.largest)))
    zero = torch.zeros(x.shape[axis], dtype=torch.int32)
    q = form.largest
    return torch.fake_quantize_per_channel_affine(wide, scale, zero, axis, -q, q).to(x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_per_tensor(form: IntFormat, dtype: torch.dtype) -> None:
    x = sample(0, 64, 1000).to(dtype)
    scale = (x.float().abs().max() / torch.tensor(float(form.largest))).item()
    want = torch.fake_quantize_per_tensor_affine(x.float(), scale, 0, -form.largest, form.largest)
    got = fake_quantize(x, QuantSpec(format=form, granularity=Granularity.TENSOR))
    assert got.dtype is dtype
    assert torch.equal(got, want.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_per_channel(form: IntFormat, dtype: torch.dtype) -> None:
    for axis, shape in ((0, (48, 33, 3, 3)), (1, (4, 48, 9, 7)), (1, (300, 77))):
        x = sample(axis, *shape).to(dtype)
        got = fake_quantize(x, QuantSpec(format=form), axis)
        assert torch.equal(got, torch_per_channel(x, form, axis))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_per_token(form: IntFormat, dtype: torch.dtype) -> None:
    x = sample(3, 4, 50, 96).to(dtype)
    got = fake_quantize(x, QuantSpec(format=form, granularity=Granularity.TOKEN))
    assert torch.equal(got, torch_per_channel(x.view(200, 96), form, 0).view(x.shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_per_voxel(form: IntFormat, dtype: torch.dtype) -> None:
    x = sample(4, 2, 24, 5, 6, 3).to(dtype)
    got = fake_quantize(x, QuantSpec(format=form, granularity=Granularity.VOXEL), axis=1)
    voxels = x.movedim(1, -1).reshape(-1, 24)
    want = torch_per_channel(voxels, form, 0).view(2, 5, 6, 3, 24).movedim(-1, 1)
    assert torch.equal(got, want)
    last = x.to(memory_format=torch.channels_last_3d)
    assert torch.equal(
        fake_quantize(last, QuantSpec(format=form, granularity=Granularity.VOXEL), 1), want
    )


@pytest.mark.parametrize("granularity", ["tensor", "channel", "token", "voxel"])
def test_codes_and_scales(granularity: str) -> None:
    x = sample(5, 8, 12, 10)
    spec = QuantSpec(format=INT4, granularity=Granularity(granularity))
    q = quantize(x, spec, axis=1)
    assert q.codes.dtype is torch.int8
    assert q.codes.abs().max() == 7
    assert torch.equal(q.dequantize(), fake_quantize(x, spec, axis=1))
    assert torch.equal(q.scale * q.codes, q.dequantize())
    shapes = {"tensor": (1, 1, 1), "channel": (1, 12, 1), "token": (8, 1, 10), "voxel": (8, 1, 10)}
    assert q.scale.shape == shapes[granularity]


def test_the_error_is_at_most_half_a_step() -> None:
    x = sample(6, 100, 100)
    q = quantize(x, QuantSpec(format=INT8, granularity=Granularity.TOKEN))
    assert ((q.dequantize() - x).abs() <= q.scale / 2 * (1 + 1e-6)).all()


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (6, 1, 4, 3), (1, 5, 4, 3), (2, 3, 2, 5, 4)])
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_channels_last_has_the_bits_of_contiguous(shape: tuple[int, ...], value: float) -> None:
    """The order in memory decides how an extreme is searched, never what it is."""
    x = sample(4, *shape)
    x.view(-1)[7] = value
    layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    last = x.contiguous(memory_format=layout)
    axes = tuple(axis for axis in range(x.dim()) if axis != 1)
    for y in (last, last[:, :, 1:], x.transpose(0, 2)):
        got = integer.scales(y, INT4, axes).scale
        plain = y.contiguous().movedim(1, 0).flatten(1)
        absmax = plain.abs().amax(1)
        want = torch.where(absmax == 0, 1.0, absmax / 7).view(got.shape)
        assert torch.equal(got.nan_to_num(-1.0), want.nan_to_num(-1.0))


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_tiny_scales_that_are_subnormal(form: IntFormat) -> None:
    """PyTorch's own functions give garbage here; ours err by half a step, and by what the largest
    code makes of the scale's own rounding to a multiple of 2^-149."""
    for magnitude in (1e-37, 3e-38, 1e-40, 1e-43):
        x = torch.linspace(-1, 1, 41) * magnitude
        got = fake_quantize(x, QuantSpec(format=form, granularity=Granularity.TENSOR))
        step = x.abs().max().double() / form.largest
        assert ((got.double() - x.double()).abs() <= 0.5 * step + form.largest * 2.0**-150).all()


def test_zero_stays_zero_with_scale_one() -> None:
    q = quantize(torch.zeros(3, 5), QuantSpec(format=INT4), axis=0)
    assert q.scale.flatten().tolist() == [1.0] * 3
    assert (q.dequantize() == 0).all()


def test_recipe_granularities_are_refused_for_a_single_tensor() -> None:
    spec = QuantSpec(format=INT4, granularity=Granularity.ADAPTIVE)
    with pytest.raises(InputError, match="chosen layer by layer"):
        fake_quantize(torch.ones(2, 2), spec)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_default_dtype_decides_nothing(dtype: torch.dtype) -> None:
    x = sample(7, 64, 80)
    spec = QuantSpec(format=INT4, granularity=Granularity.TOKEN)
    want = fake_quantize(x, spec)
    torch.set_default_dtype(dtype)
    try:
        got, q = fake_quantize(x, spec), quantize(x, spec)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got, want)
    assert q.scale.dtype is torch.float32


def test_plain_scales_are_the_scales_where_there_are_any(generator):
    largest = torch.rand(1000, 1, generator=generator) * torch.exp2(
        torch.randint(-100, 100, (1000, 1), generator=generator).float()
    )
    found = integer.plain_scales_of(largest, INT4)
    for ours, theirs in zip(found, integer.scales_of(largest, INT4), strict=True):
        assert torch.equal(ours, theirs)
    for without in (0.0, 1e-38, math.nan):
        assert integer.plain_scales_of(torch.tensor([1.0, without]), INT4) is None
