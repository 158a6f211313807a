import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qprobe.errors import InputError
from qprobe.stats.moments import Moments


def check(m: Moments, x: torch.Tensor, tolerance: float = 1e-10) -> None:
    """Against scipy, entry by entry over the first axis, in float64."""
    wide = x.double().numpy()
    np.testing.assert_allclose(m.mean, wide.mean(0), rtol=tolerance, atol=1e-300)
    np.testing.assert_allclose(m.m2 / m.n, wide.var(0), rtol=tolerance)
    np.testing.assert_allclose(m.kurtosis(), stats.kurtosis(wide, 0, fisher=False), rtol=tolerance)
    np.testing.assert_allclose(m.skewness(), stats.skew(wide, 0), rtol=1e-7, atol=1e-7)
    np.testing.assert_array_equal(m.absmax, np.abs(wide).max(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mean", [0.0, 100.0, 1e4])
def test_moments_of_columns_are_those_of_scipy(dtype, mean, generator):
    x = (torch.randn(500, 7, generator=generator) ** 3 + mean).to(dtype)
    check(Moments.of(x, [0]), x)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(lambda s: sum(s) > 8),
    mean=st.sampled_from([0.0, 3.0, -300.0]),
    bfloat16=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_merging_any_split_equals_one_pass(sizes, mean, bfloat16, seed):
    x = torch.randn(sum(sizes), 5, generator=torch.Generator().manual_seed(seed)) + mean
    x = x.bfloat16() if bfloat16 else x
    parts = [Moments.of(part, [0]) for part in x.split(sizes)]
    forward, backward = parts[0], parts[-1]
    for part in parts[1:]:
        forward = forward.merge(part)
    for part in parts[-2::-1]:
        backward = part.merge(backward)
    whole = Moments.of(x, [0])
    for merged in (forward, backward):
        torch.testing.assert_close(merged.pack()[:3], whole.pack()[:3], rtol=1e-11, atol=1e-11)
        scale = whole.n * (whole.m2 / whole.n) ** 1.5
        assert ((merged.m3 - whole.m3).abs() <= 1e-10 * scale).all()
        torch.testing.assert_close(merged.m4, whole.m4, rtol=1e-10, atol=1e-12)


def test_a_tensors_moments_are_its_channels_merged(generator):
    x = torch.randn(400, 13, generator=generator) * torch.arange(1.0, 14.0) + 50
    total = Moments.of(x, [0]).total()
    check(Moments.unpack(total.pack()[:, None]), x.reshape(-1, 1))


def test_merging_along_one_axis_keeps_the_others(generator):
    x = torch.randn(40, 5, 3, generator=generator)
    torch.testing.assert_close(
        Moments.of(x, [0]).total(0).pack(), Moments.of(x, [0, 1]).pack(), rtol=1e-11, atol=1e-11
    )


def test_a_constant_and_an_empty_entry_have_no_kurtosis_and_it_is_left_out():
    x = torch.tensor([[1.0, 7.5, float("nan")], [-1.0, 7.5, float("inf")]])
    m = Moments.of(x, [0])
    assert m.n.tolist() == [2.0, 2.0, 0.0]
    assert m.spread.tolist() == [True, False, False]
    assert m.kurtosis().tolist() == [1.0]
    assert m.std().tolist() == [1.0, 0.0]
    assert not m.pack().isnan().any()


def test_an_entry_without_elements_adds_nothing(generator):
    m = Moments.of(torch.randn(9, 2, generator=generator), [0])
    empty = Moments.unpack(torch.zeros(6, 2, dtype=torch.float64))
    assert torch.equal(m.merge(empty).pack(), m.pack())
    assert torch.equal(empty.merge(m).pack(), m.pack())
    assert Moments.unpack(torch.zeros(6, 0)).total().n.item() == 0


def test_moments_of_different_tensors_are_not_merged():
    one, other = (Moments.of(torch.zeros(2, n), [0]) for n in (3, 4))
    with pytest.raises(InputError, match=r"of \[3\] entries .* of \[4\]"):
        one.merge(other)
    with pytest.raises(InputError, match="six rows, this tensor has 5"):
        Moments.unpack(torch.zeros(5, 2))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_whole_is_what_merging_all_gives(offset, generator):
    x = torch.randn(3, 50, 17, generator=generator) ** 3 + offset
    x[1, :, 4] = torch.nan  # a channel without elements
    channels = Moments.of(x, [1])
    whole = channels.whole()
    for row, found in enumerate(whole.pack().T):
        one = Moments.unpack(channels.pack()[:, row])
        torch.testing.assert_close(found, one.total().pack(), rtol=1e-10, atol=1e-10)


def test_a_whole_of_nothing_is_empty():
    for nothing in (torch.zeros(6, 2, 0), torch.zeros(6, 2, 3)):
        assert not Moments.unpack(nothing.double()).whole().pack().any()
