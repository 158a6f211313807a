"""The C kernel against the PyTorch path, bit for bit, on numbers and layouts that break things."""

from itertools import product

import pytest
import torch
from torch import Tensor

from qprobe import native
from qprobe.quant import INT3, INT4, INT8, Granularity, IntFormat, QuantSpec, fake_quantize, integer
from qprobe.quant.integer_native import layout, usable

FORMATS = [INT3, INT4, INT8]
TINY, LARGE = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
#: Signed zeros, subnormals, the edges of what has a reciprocal, ties, infinities and NaN.
TRAPS = [0.0, -0.0, 1e-45, -1e-45, 1e-40, TINY, -3 * TINY, 127 * TINY, 1.0, -0.5, 2.5, 1e30, LARGE]


def slow(x: Tensor, form: IntFormat, axes: tuple[int, ...]) -> Tensor:
    """The arithmetic in words, by PyTorch; shares no code with the kernel."""
    scales = integer.scales(x, form, axes)
    return integer.codes(x, form, scales) * scales.scale


def same_bits(got: Tensor, want: Tensor) -> bool:
    """Equal to the bit, the sign of zero included; any NaN is like another."""
    both_nan = got.isnan() & want.isnan()
    as_bits = got.contiguous().view(torch.int32) == want.contiguous().view(torch.int32)
    return bool((as_bits | both_nan).all())


def kernel(x: Tensor, form: IntFormat, axes: tuple[int, ...]) -> Tensor:
    spec = {len(axes) == x.dim(): "tensor"}.get(True, "voxel")
    return integer.fake_quantize(x, QuantSpec(format=form, granularity=Granularity(spec)), axes)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g) * torch.randn(shape, generator=g).mul(2).exp()


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("special", [None, float("nan"), float("inf"), -float("inf")])
def test_traps_among_numbers(form: IntFormat, special: float | None, implementation: str) -> None:
    for length, place in product((1, 2, 7, 16, 33, 67), (0, -1)):
        x = torch.tensor(TRAPS * 67)[: 13 * length].reshape(13, length).clone()
        x = torch.cat([x, x * 0, -x, x.sign() * 7.0, numbers(4, length)])
        if special is not None:
            x[::3, place] = special
        for axes in ((1,), (0,), (0, 1)):
            assert same_bits(kernel(x, form, axes), slow(x, form, axes))


@pytest.mark.parametrize("size", range(1, 68))
def test_every_size(size: int, implementation: str) -> None:
    x = numbers(3, size, 5, seed=size)
    for axes in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        assert same_bits(kernel(x, INT4, axes), slow(x, INT4, axes)), axes


def views() -> list[Tensor]:
    x = numbers(6, 10, 4, 8)
    return [
        x,
        x.to(memory_format=torch.channels_last),
        x.transpose(0, 2),
        x[:, 1:9:2],
        x[..., ::3],
        x[2:3],
        x[:, :1],
        x.unsqueeze(1),
        x[:1, :, :1].expand(3, 10, 4, 8),
    ]


@pytest.mark.parametrize("number", range(9))
def test_views(number: int, implementation: str) -> None:
    x = views()[number]
    for kept in product((False, True), repeat=x.dim()):
        axes = tuple(axis for axis in range(x.dim()) if not kept[axis])
        if axes:
            assert same_bits(kernel(x, INT4, axes), slow(x, INT4, axes)), axes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "token", "voxel"])
def test_other_types_go_through_float32(
    dtype: torch.dtype, granularity: str, implementation: str
) -> None:
    x = numbers(4, 24, 9).to(dtype)
    spec = QuantSpec(format=INT4, granularity=Granularity(granularity))
    got = fake_quantize(x, spec, 1)
    want = slow(x.float(), INT4, integer.reduced_axes(x, spec.granularity, 1)).to(dtype)
    assert got.dtype is dtype
    assert torch.equal(got, want)


def test_the_order_in_memory_is_kept(implementation: str) -> None:
    x = numbers(2, 8, 4, 4).to(memory_format=torch.channels_last)
    assert fake_quantize(x, QuantSpec(format=INT4), 1).stride() == x.stride()


def test_nothing_beside_the_tensor_is_written(implementation: str) -> None:
    """The kernel itself, between guards."""
    if native.kernels is None:
        pytest.skip("PyTorch bounds its own tensors")
    guard = 64
    for outer, length, inner in product((1, 3, 17), (1, 7, 8, 65), (1, 2, 33)):
        for across in (False, True):
            count = outer * length * inner
            floats = native.kernels.integer_scratch(length, inner, across)
            x, y = (torch.full((count + 2 * guard,), 3.0) for _ in range(2))
            scratch = torch.full((floats + 2 * guard,), 3.0)
            x[guard : guard + count] = numbers(count)
            before = x.clone()
            native.kernels.integer_apply(
                *(x[guard:].data_ptr(), y[guard:].data_ptr(), outer, length, inner),
                *(across, 7.0, scratch[guard:].data_ptr()),
            )
            assert torch.equal(x, before)
            for memory, used in ((y, count), (scratch, floats)):
                assert (memory[:guard] == 3.0).all()
                assert (memory[guard + used :] == 3.0).all()
            view = x[guard : guard + count].view(outer, length, inner)
            want = slow(view, INT4, (0, 2) if across else (1,))
            assert same_bits(y[guard : guard + count].view_as(view), want)


def test_tensors_that_dispatch_for_themselves_are_left_alone() -> None:
    class Own(Tensor):
        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            raise NotImplementedError

    x = torch.ones(4)
    assert usable(x) is (native.kernels is not None)
    assert not usable(x.as_subclass(Own))
    assert not usable(x.double())
    assert not usable(x[:0])
    assert not usable(x.to("meta"))


def test_a_library_of_another_interface_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if native.kernels is None:
        pytest.skip(native.describe())
    monkeypatch.setattr(native, "_ABI", 999)
    found, reason = native._open()
    assert found is None
    assert "install qprobe again" in reason


def test_layouts() -> None:
    """One element, no axis shared, all shared, and shared axes at either end."""
    assert layout((1, 1), (1, 1), (0,)).sizes == (1, 1, 1)
    assert layout((2, 3), (3, 1), ()) == ((0, 1), (6, 1, 1), False)
    assert layout((2, 3), (3, 1), (0, 1)) == ((0, 1), (1, 6, 1), False)
    assert layout((2, 3), (3, 1), (0,)) == ((0, 1), (2, 3, 1), True)
    assert layout((2, 3), (3, 1), (1,)) == ((0, 1), (2, 3, 1), False)
    assert layout((2, 3, 4), (12, 4, 1), (1,)) == ((0, 1, 2), (2, 3, 4), False)
