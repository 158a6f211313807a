"""Sums of powers about zero, against float64, and what they leave to others."""

import numpy as np
import pytest
import torch
from scipy import stats

from qprobe import native
from qprobe.probes import summary_eager
from qprobe.probes.summary import Summary
from qprobe.probes.summary_powers import powers


@pytest.fixture
def counted(monkeypatch):
    """How often a summary is filled about means instead."""
    calls = []
    centred = summary_eager._read_centred

    def read(*given):
        calls.append(given)
        centred(*given)

    monkeypatch.setattr(native, "kernels", None)
    monkeypatch.setattr(summary_eager, "_read_centred", read)
    return calls


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("magnitude", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("mean", [0.0, 0.4])
def test_moments_of_channels_and_kurtosis_of_tokens(mean, magnitude, axis, generator):
    x = (torch.randn(700, 40, generator=generator) + mean) * magnitude
    pieces = [(part.T.contiguous() if axis == 0 else part, axis) for part in x.split(300)]
    found = powers(x[..., None], pieces, 0.0)
    wide = x.double().numpy()
    n, means, m2, m3, m4, absmax = found.channels.numpy()
    assert (n == 700).all()
    np.testing.assert_allclose(means, wide.mean(0), rtol=1e-6, atol=1e-7 * magnitude)
    np.testing.assert_allclose(m2 / n, wide.var(0), rtol=2e-6)
    np.testing.assert_allclose(m3 / n, stats.moment(wide, 3, 0), atol=5e-6 * magnitude**3)
    np.testing.assert_allclose(n * m4 / m2**2, stats.kurtosis(wide, 0, fisher=False), rtol=5e-6)
    np.testing.assert_array_equal(absmax, np.abs(wide).max(0))
    square, largest, kurtosis = found.tokens.double().numpy()
    kept = np.setdiff1d(np.arange(700), found.tokens_left)
    assert len(kept) > 600
    scaled = wide[kept] * found.scale
    np.testing.assert_allclose(square[kept], (scaled**2).mean(1), rtol=1e-6)
    np.testing.assert_array_equal(largest[kept], np.abs(scaled).max(1))
    expected = stats.kurtosis(wide[kept], 1, fisher=False)
    np.testing.assert_allclose(kurtosis[kept], expected, rtol=5e-6)


def test_what_lies_off_is_named(generator):
    x = torch.randn(400, 64, generator=generator)
    x[:, 3] += 3.0
    x[7] += 30.0
    x[:, 5] *= 1e-12
    x[9] = 0.0
    x[11, 20] = float("nan")
    x[13, 21] = float("inf")
    found = powers(x[..., None], [(x, 1)], 30.0)
    assert {3, 5, 20, 21} <= set(found.left.tolist())
    assert {7, 9, 11, 13} <= set(found.tokens_left.tolist())
    assert len(found.left) <= 8


def test_too_many_are_left_to_others_before_anything_is_filled(generator, monkeypatch):
    x = torch.randn(400, 64, generator=generator)
    x[:, :17] += 3.0
    filled = []
    fill = powers.__globals__["_fill"]
    monkeypatch.setitem(powers.__globals__, "_fill", lambda *a: filled.append(fill(*a)))
    assert powers(x[..., None], [(part, 1) for part in x.split(100)], 1.0) is None
    assert not filled
    fewer = x[:, 3:].contiguous()
    assert powers(fewer[..., None], [(fewer, 1)], 1.0) is not None


@pytest.mark.parametrize("largest", [1e-30, 1e30])
def test_magnitudes_beyond_all_scales_are_left_to_others(largest):
    ones = torch.ones(4, 16)
    assert powers(ones[..., None], [(ones, 1)], largest) is None


@pytest.mark.parametrize(("shape", "axis"), [((900, 64), -1), ((2, 64, 20, 20), 1)])
def test_a_summary_takes_what_is_left_by_itself(shape, axis, counted, generator):
    x = torch.randn(shape, generator=generator)
    rows = x.movedim(axis, -1)
    rows[..., 3] += 100.0
    first, last = ((place,) * (rows.dim() - 1) for place in (0, -1))
    rows[first] = 0.0
    rows[last][9] = float("nan")
    s = Summary(64)
    s.observe(x, axis)
    assert not counted
    wide = rows.double().reshape(-1, 64).numpy()
    expected = stats.kurtosis(wide, 0, fisher=False, nan_policy="omit")
    np.testing.assert_allclose(s.moments().kurtosis(), np.asarray(expected), rtol=1e-5)
    found = s.scalars()
    assert found["nan"] == np.isnan(wide).sum()
    assert found["tokens"] == len(wide)
    assert found["tokens_zero"] == (wide == 0).all(1).sum()
    assert found["tokens_nonfinite"] == np.isnan(wide).any(1).sum()


@pytest.mark.parametrize("shape", [(4096, 192), (64, 192, 8, 8)])
def test_tokens_from_all_over_say_whether_means_lie_off(shape, counted, generator):
    x = torch.randn(shape, generator=generator)
    signs = (torch.arange(192) % 2 * 2.0 - 1.0).view(-1, *[1] * (len(shape) - 2))
    x[: len(x) // 3] += 3.0 * signs
    x[len(x) // 3 :] -= 1.5 * signs
    s = Summary(192)
    s.observe(x, 1 if x.dim() > 2 else -1)
    assert not counted  # the first 1,365 tokens alone, one piece, lie three deviations off
    wide = x.double().movedim(1, -1).reshape(-1, 192).numpy()
    expected = stats.kurtosis(wide, 0, fisher=False)
    np.testing.assert_allclose(s.moments().kurtosis(), expected, rtol=1e-5)


def test_a_left_channel_that_float32_does_not_hold_is_taken_in_float64(counted, generator):
    x = torch.randn(900, 64, generator=generator)
    x[:, 3] *= 1e-25
    x[:, 4] += 100.0
    x[:, 5] = 0.25
    s = Summary(64)
    s.observe(x)
    assert not counted
    kept = [c for c in range(64) if c != 5]
    expected = stats.kurtosis(x[:, kept].double().numpy(), 0, fisher=False)
    np.testing.assert_allclose(s.moments().kurtosis(), expected, rtol=1e-5)
    assert s.moments().m2[5] == 0


def test_a_summary_of_means_far_off_is_filled_about_them(counted, generator):
    s = Summary(64)
    s.observe(torch.randn(900, 64, generator=generator) + 5.0)
    assert len(counted) == 1
