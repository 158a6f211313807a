"""The kernel against PyTorch: the same counts and sums, in every instruction set there is."""

import math

import pytest
import torch

from qprobe import native
from qprobe.native import InstructionSet
from qprobe.stats import logit_error, softmax_change

needs_kernels = pytest.mark.skipif(native.kernels is None, reason=native.describe())
MASKS = {
    "none": lambda seen: None,
    "boolean": lambda seen: seen,
    "added": lambda seen: torch.linspace(-3, 3, seen.shape[-1]).masked_fill(~seen, -math.inf),
    "added, wide": lambda seen: torch.zeros(seen.shape[-1:], dtype=torch.float64),
}


def both(x, y, mask, monkeypatch):
    """What the kernel found, and what PyTorch found."""
    ours = [logit_error(x, y, mask), *softmax_change(x, y, mask)]
    with monkeypatch.context() as without:
        without.setattr(native, "kernels", None)
        return ours, [logit_error(x, y, mask), *softmax_change(x, y, mask)]


def agree(ours, theirs):
    """Nothing lies on the edge of a bin here, so counts are equal."""
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.tensors().keys() == yours.tensors().keys()
        for name, value in mine.tensors().items():
            other = yours.tensors()[name]
            assert value.dtype == other.dtype, name
            if value.is_floating_point():  # sums: what rounding left out differs
                torch.testing.assert_close(value[0], other[0], rtol=1e-12, atol=1e-12)
            else:
                assert torch.equal(value, other), name


@needs_kernels
@pytest.mark.parametrize("limit", list(InstructionSet))
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("spread", [1e-6, 1.0, 30.0])
@pytest.mark.parametrize("keys", [1, 16, 37])
def test_numbers_are_those_of_pytorch(limit, mask, dtype, spread, keys, generator, monkeypatch):
    x = (spread * torch.randn(2, 3, 5, keys, generator=generator)).to(dtype)
    y = (x + 0.2 * spread * torch.randn(x.shape, generator=generator)).to(dtype)
    seen = torch.rand(2, 1, 5, keys, generator=generator) < 0.7
    seen[0, 0, 2] = False
    native.kernels.select(limit)
    ours, theirs = both(x, y, MASKS[mask](seen), monkeypatch)
    native.kernels.select(InstructionSet.AVX512)
    agree(ours, theirs)


@needs_kernels
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_not_finite_is_left_to_pytorch(bad, which, generator, monkeypatch):
    pair = [torch.randn(1, 2, 3, 20, generator=generator) for _ in range(2)]
    pair[which][0, 1, 1, 7] = bad
    ours, theirs = both(*pair, None, monkeypatch)
    for mine, yours in zip(ours, theirs, strict=True):
        for name, value in mine.tensors().items():
            other = yours.tensors()[name]
            if value.is_floating_point():
                torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-12, equal_nan=True)
            else:
                assert torch.equal(value, other), name


@needs_kernels
def test_what_is_hidden_may_be_anything(generator, monkeypatch):
    x = torch.randn(1, 1, 4, 9, generator=generator)
    y, seen = x + 0.1, torch.ones(9, dtype=torch.bool)
    clean = both(x, y, seen, monkeypatch)[0]
    seen[4] = False
    expected = both(x[..., seen], y[..., seen], None, monkeypatch)[0]
    x[..., 4] = y[..., 4] = math.nan
    agree(both(x, y, seen, monkeypatch)[0], expected)
    assert clean[0].entries.item() == 36


@needs_kernels
def test_powers_of_two_lie_in_their_own_bins(monkeypatch):
    """Edges at whole octaves are met exactly: 2 equal keys are 1/2 each, 64 are 1/64."""
    for keys in (1, 2, 64, 1024):
        x = torch.zeros(1, 1, 1, keys)
        agree(*both(x, x + 5.0, None, monkeypatch))


@needs_kernels
def test_ties_have_no_largest(monkeypatch):
    x = torch.tensor([[[[2.0, 2.0, 1.0], [3.0, 1.0, 0.0], [3.0, 1.0, 0.0]]]])
    y = torch.tensor([[[[1.0, 2.0, 3.0], [1.0, 3.0, 0.0], [3.0, 3.0, 0.0]]]])
    ours, theirs = both(x, y, None, monkeypatch)
    agree(ours, theirs)
    assert (ours[1].rows.item(), ours[1].decided.item(), ours[1].flipped.item()) == (3, 2, 1)


@needs_kernels
def test_logits_far_apart_do_not_overflow(monkeypatch):
    x = torch.tensor([[[[3e38, -3e38, 0.0], [-3e38, -3e38, -3e38]]]])
    agree(*both(x, x / 2, None, monkeypatch))


def test_a_probability_less_than_the_smallest_bin_vanishes():
    """1 against 2^-30: in range before only where both were 1/2."""
    x = torch.zeros(1, 1, 2)
    moved, levels = softmax_change(x, torch.tensor([[[0.0, -30 * math.log(2)]]]))
    assert levels.in_range.item() == 2
    assert levels.below.item() == 1
    assert moved.scalars()["total_variation"].item() == pytest.approx(0.5, abs=1e-8)
    assert moved.scalars()["entropy_change_nats"].item() == pytest.approx(-math.log(2), abs=1e-7)
