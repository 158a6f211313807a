"""What the two functions accept, refuse and promise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from qprobe.errors import InputError
from qprobe.quant import (
    INT4,
    INT8,
    MXFP4,
    NVFP4,
    Granularity,
    Operand,
    QuantSpec,
    Rounding,
    Tile,
    fake_quantize,
    quantize,
)
from qprobe.quant.fold import fold
from qprobe.quant.hadamard import rotate_folded
from qprobe.quant.quantize import on_grid, quantize_operand

SPECS = {
    "nvfp4": QuantSpec(format=NVFP4),
    "nvfp4-2d": QuantSpec(format=NVFP4, tile=Tile.TWO_D),
    "nvfp4-sr": QuantSpec(format=NVFP4, rounding=Rounding.STOCHASTIC),
    "mxfp4": QuantSpec(format=MXFP4),
    "int8": QuantSpec(format=INT8, granularity=Granularity.TOKEN),
    "int4": QuantSpec(format=INT4, granularity=Granularity.TENSOR),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> QuantSpec:
    return SPECS[request.param]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_computed_in_float32(spec: QuantSpec, dtype: torch.dtype) -> None:
    x = torch.randn(37, 50, generator=seeded()).to(dtype)
    got = fake_quantize(x, spec, 1, seeded())
    assert got.dtype is dtype
    assert got.shape == x.shape
    assert torch.equal(got, fake_quantize(x.float(), spec, 1, seeded()).to(dtype))
    q = quantize(x, spec, 1, seeded())
    assert torch.equal(q.dequantize(), got)
    assert q.dequantize(torch.float64).dtype is torch.float64


@pytest.mark.parametrize(
    "fill", [0.0, 0.37, -5.5, 1e-37, 7e-36, 8e-36, 1e-30, 7.5e35, 7.7e35, 1e37, 3.4e38]
)
def test_constants_from_tiny_to_huge(spec: QuantSpec, fill: float, implementation: str) -> None:
    """A constant is its own largest magnitude: every format keeps it to half a step."""
    x = torch.full((16, 32), fill)
    got = fake_quantize(x, spec, 1, seeded())
    assert got.isfinite().all()
    # The constant sits at the top of its block, at 6 after scaling, up to E4M3's rounding; MXFP4's
    # power-of-two scale may leave it anywhere, and a stochastic draw just below 6 may fall to 4.
    loose = spec.format is MXFP4 or spec.rounding is Rounding.STOCHASTIC
    step = 0.34 if loose else 0.07
    assert ((got - x).abs() <= step * abs(fill)).all()
    assert torch.equal(quantize(x, spec, 1, seeded()).dequantize(), got)


def test_tiny_beside_tiny_keeps_relative_size(implementation: str) -> None:
    """Where S is clamped, the value is not A-scaled: an error of 98.7 % in the plain formula."""
    x = torch.linspace(-1, 1, 64).view(4, 16)
    error = (fake_quantize(x, SPECS["nvfp4"]) - x).double().norm()
    small = x * 1e-37
    got = (fake_quantize(small, SPECS["nvfp4"]) - small).double() * 1e37
    assert got.norm() < 1.1 * error


@pytest.mark.parametrize("shape", [(0, 16), (4, 0), (3, 0, 5)])
def test_empty_tensors(spec: QuantSpec, shape: tuple[int, ...]) -> None:
    if spec.tile is Tile.TWO_D and len(shape) > 2:
        pytest.skip("a 2d tile is for a weight's first two axes")
    x = torch.empty(shape)
    assert fake_quantize(x, spec, 1, seeded()).shape == shape
    q = quantize(x, spec, 1, seeded())
    assert q.codes.shape == shape
    assert q.dequantize().shape == shape


@pytest.mark.parametrize("length", [1, 7, 15, 16, 17, 33])
def test_a_partial_block_is_a_block_filled_with_zeros(length: int, implementation: str) -> None:
    x = torch.randn(5, length, generator=seeded())
    x[0, 0] = 4.0
    filled = torch.zeros(5, -(-length // 16) * 16)
    filled[:, :length] = x
    assert torch.equal(
        fake_quantize(x, SPECS["nvfp4"]), fake_quantize(filled, SPECS["nvfp4"])[:, :length]
    )


@given(
    shape=st.lists(st.integers(1, 21), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    key=st.sampled_from(sorted(SPECS)),
)
@settings(max_examples=60, deadline=None)
def test_any_view_gives_what_its_contiguous_copy_gives(
    shape: list[int], order: object, key: str
) -> None:
    spec = SPECS[key]
    axes = list(range(len(shape)))
    order.shuffle(axes)  # type: ignore[attr-defined]
    x = torch.randn(shape, generator=seeded()).permute(axes)
    axis = axes[0] % (2 if spec.tile is Tile.TWO_D else len(shape))
    if spec.tile is Tile.TWO_D and len(shape) < 2:
        return
    got = fake_quantize(x, spec, axis, seeded())
    assert torch.equal(got, fake_quantize(x.contiguous(), spec, axis, seeded()))
    assert torch.equal(got, quantize(x, spec, axis, seeded()).dequantize())


def test_several_axes_are_read_as_one(implementation: str) -> None:
    x = torch.randn(3, 5, 4, 6, generator=seeded())
    flat = x.permute(1, 0, 2, 3).reshape(5, -1)
    want = fake_quantize(flat, SPECS["nvfp4"], 1).view(5, 3, 4, 6).permute(1, 0, 2, 3)
    for y in (x, x.to(memory_format=torch.channels_last)):
        assert torch.equal(fake_quantize(y, SPECS["nvfp4"], (0, 2, 3)), want)
    whole = torch.randn(3, 5, 4, 8, generator=seeded())  # 32 positions: no block crosses an image
    flat = whole.permute(1, 0, 2, 3).reshape(5, -1)
    want = fake_quantize(flat, SPECS["nvfp4"], 1).view(5, 3, 4, 8).permute(1, 0, 2, 3)
    assert torch.equal(fake_quantize(whole, SPECS["nvfp4"], (0, 2, 3)), want)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_has_no_code(spec: QuantSpec, bad: float, implementation: str) -> None:
    x = torch.ones(16, 32)
    x[3, 4] = bad
    with pytest.raises(InputError, match=r"1 of 512 elements .* first at index \[3, 4\]"):
        quantize(x, spec, 1, seeded())
    values = fake_quantize(x, spec, 1, seeded())
    assert not values[3].isfinite().all()
    low = fake_quantize(x.bfloat16(), spec, 1, seeded())
    assert not low[3].isfinite().all()
    if spec.format is NVFP4:  # the tensor's amax has no meaning any more
        assert not values.isfinite().any()


def test_float64_beyond_float32_is_refused() -> None:
    with pytest.raises(InputError, match="in float32"):
        quantize(torch.tensor([1e300], dtype=torch.float64), SPECS["nvfp4"])


def test_out_is_written_where_it_lies(implementation: str) -> None:
    for x in (
        torch.randn(8, 20, 4, 4, generator=seeded()),
        torch.randn(8, 20, 4, 4, generator=seeded()).to(memory_format=torch.channels_last),
        torch.randn(8, 20, 4, 4, generator=seeded()).bfloat16(),
        torch.randn(8, 40, 4, 4, generator=seeded())[:, ::2],
    ):
        for axis in (1, (0, 2, 3)):
            want = fake_quantize(x, SPECS["nvfp4"], axis)
            out = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
            got = fake_quantize(x, SPECS["nvfp4"], axis, out=out)
            assert torch.equal(out, want)
            assert got.data_ptr() == out.data_ptr()
    with pytest.raises(InputError, match="out has to be like x"):
        fake_quantize(torch.ones(4, 4), SPECS["nvfp4"], out=torch.ones(4, 5))


def test_out_may_be_the_input_itself(implementation: str) -> None:
    for spec in SPECS.values():
        x = torch.randn(40, 40, generator=seeded())
        want = fake_quantize(x, spec, 1, seeded())
        fake_quantize(x, spec, 1, seeded(), out=x)
        assert torch.equal(x, want)


def test_the_input_is_left_alone_and_gradients_pass_through(spec: QuantSpec) -> None:
    x = torch.randn(16, 32, generator=seeded(), requires_grad=True)
    before = x.detach().clone()
    y = fake_quantize(x, spec, 1, seeded())
    y.mul(torch.arange(32.0)).sum().backward()
    assert torch.equal(x.grad, torch.arange(32.0).expand(16, 32))  # type: ignore[arg-type]
    assert torch.equal(x.detach(), before)
    with torch.no_grad():
        assert not fake_quantize(x, spec, 1, seeded()).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_default_dtype_decides_nothing(
    spec: QuantSpec, dtype: torch.dtype, implementation: str
) -> None:
    """Buffers that kernels write by address are float32 whatever the default says."""
    x = torch.randn(64, 80, generator=seeded())
    want = fake_quantize(x, spec, 1, seeded())
    torch.set_default_dtype(dtype)
    try:
        got = fake_quantize(x, spec, 1, seeded())
        stored = quantize(x, spec, 1, seeded())
        values = stored.dequantize()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got, want)
    assert torch.equal(values, want)
    assert stored.scale.dtype is stored.amax.dtype is torch.float32


def test_the_default_device_decides_nothing(spec: QuantSpec, implementation: str) -> None:
    x = torch.randn(64, 80, generator=seeded())
    want = fake_quantize(x, spec, 1, seeded())
    with torch.device("meta"):
        assert torch.equal(fake_quantize(x, spec, 1, seeded()), want)
        assert torch.equal(quantize(x, spec, 1, seeded()).dequantize(), want)


@pytest.mark.parametrize("key", ["nvfp4", "nvfp4-2d", "mxfp4", "int8"])
def test_tensors_without_memory_keep_their_shape(key: str, implementation: str) -> None:
    with FakeTensorMode():
        got = fake_quantize(torch.ones(40, 50), SPECS[key], 1)
    assert type(got) is FakeTensor
    assert got.shape == (40, 50)
    assert fake_quantize(torch.ones(40, 50, device="meta"), SPECS[key], 1).is_meta


def test_randomness_comes_from_the_generator_alone() -> None:
    x = torch.randn(64, 64, generator=seeded())
    spec = SPECS["nvfp4-sr"]
    state = torch.random.get_rng_state()
    first = fake_quantize(x, spec, 1, seeded())
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(fake_quantize(x, spec, 1, seeded()), first)
    g = seeded()
    fake_quantize(x, spec, 1, g)
    assert not torch.equal(fake_quantize(x, spec, 1, g), first)
    with pytest.raises(InputError, match="pass generator="):
        fake_quantize(x, spec, 1)


def test_refusals_name_what_came() -> None:
    with pytest.raises(InputError, match=r"got torch\.int64"):
        quantize(torch.ones(4, dtype=torch.int64), SPECS["nvfp4"])
    with pytest.raises(InputError, match=r"torch\.Tensor can be quantized, got a list"):
        fake_quantize([1.0], SPECS["nvfp4"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sparse"):
        quantize(torch.eye(4).to_sparse(), SPECS["nvfp4"])
    with pytest.raises(InputError, match=r"axis 2 is not one of a tensor of shape \[4, 4\]"):
        quantize(torch.ones(4, 4), SPECS["nvfp4"], axis=2)
    with pytest.raises(InputError, match=r"reshape it to \[1\]"):
        quantize(torch.tensor(1.0), SPECS["nvfp4"])
    with pytest.raises(InputError, match="2d tile spans the first two axes"):
        quantize(torch.ones(4, 4, 4), SPECS["nvfp4-2d"], axis=2)
    with pytest.raises(InputError, match="names one axis twice"):
        fake_quantize(torch.ones(4, 4), SPECS["nvfp4"], (0, -2))


def test_signal_to_noise_on_normal_numbers() -> None:
    """Known figures of the formats on N(0, 1): 20.4, 19.1 and 18.8 dB; INT4 per token 18.0."""
    x = torch.randn(1024, 1024, generator=seeded())

    def sqnr_db(spec: QuantSpec) -> float:
        noise = fake_quantize(x, spec, 1, seeded()) - x
        return float(10 * torch.log10(x.square().mean() / noise.square().mean()))

    assert sqnr_db(SPECS["nvfp4"]) == pytest.approx(20.44, abs=0.03)
    assert sqnr_db(SPECS["nvfp4-2d"]) == pytest.approx(19.06, abs=0.03)
    assert sqnr_db(SPECS["mxfp4"]) == pytest.approx(18.79, abs=0.03)
    assert sqnr_db(SPECS["nvfp4-sr"]) == pytest.approx(17.2, abs=0.1)


GRIDS = {
    "1d": Operand(axes=1, spec=QuantSpec(format=NVFP4)),
    "columnwise": Operand(axes=0, spec=QuantSpec(format=NVFP4)),
    "flattened": Operand(axes=(0, 2, 3), spec=QuantSpec(format=NVFP4)),
    "2d": Operand(axes=1, spec=QuantSpec(format=NVFP4, tile=Tile.TWO_D), partner=0),
    "sr": Operand(axes=1, spec=QuantSpec(format=NVFP4, rounding=Rounding.STOCHASTIC)),
    "rht": Operand(axes=1, spec=QuantSpec(format=NVFP4), hadamard=16),
    "rht-sr": Operand(
        axes=(0, 2, 3),
        spec=QuantSpec(format=NVFP4, rounding=Rounding.STOCHASTIC),
        hadamard=16,
    ),
    "mxfp4": Operand(axes=1, spec=QuantSpec(format=MXFP4)),
    "int4": Operand(axes=1, spec=QuantSpec(format=INT4, granularity=Granularity.VOXEL)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("kind", GRIDS)
def test_the_grid_holds_the_values_that_a_layer_gets(kind, layout, dtype, generator):
    """Bit for bit, turned back where they were rotated."""
    x = torch.randn(21, 40, 3, 4, generator=generator).to(dtype)  # partial blocks everywhere
    if layout == "channels-last":
        x = x.to(memory_format=torch.channels_last)
    operand = GRIDS[kind]
    expected = quantize_operand(x, operand, seeded(), torch.float32)
    grid = on_grid(x, operand, seeded())
    if kind == "int4":
        assert torch.equal(grid.values(), expected)
        return
    folded = fold(x, operand.axes, grid.form.block)
    values = grid.values()
    if operand.hadamard:
        values = rotate_folded(values, inverse=True)[:, : folded.x.shape[1]]
    assert torch.equal(folded.unfold(values.contiguous()), expected)


def test_the_limit_is_the_value_of_the_largest_code():
    grid = on_grid(torch.tensor([6.0, 1.0, -6.0]), Operand(axes=0, spec=SPECS["nvfp4"]), None)
    assert grid.limit().flatten().tolist() == [6.0, 6.0, 6.0]
    integers = Operand(axes=0, spec=QuantSpec(format=INT4, granularity=Granularity.TENSOR))
    assert on_grid(torch.tensor([6.0, 1.0]), integers, None).limit().item() == pytest.approx(6.0)
