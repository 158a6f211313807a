import math

import pytest
import torch

from qprobe.analyzers.weights.dense import Weight, measure


def of(x):
    return Weight(shape=tuple(x.shape), rows=lambda first, stop: x[first:stop].float())


def test_of_a_weight_that_is_known():
    # One block of sixteen, scale 1 exactly: 6 and 5 (→ 4, a tie goes to the even code), 0.1 → 0.
    x = torch.zeros(8, 16)
    x[:, 0], x[:, 1], x[:, 2] = 6.0, 5.0, 0.1
    found = dict(measure(of(x), None))
    assert found["nvfp4.sqnr_db"] == pytest.approx(10 * math.log10(61.01 / 1.01), abs=1e-4)
    shares = (0.0 + 1 / 25 + 1.0) / 3
    assert found["nvfp4.balanced_db"] == pytest.approx(-10 * math.log10(shares), abs=1e-4)
    assert found["nvfp4.underflow"] == pytest.approx(1 / 3)
    assert (found["dead_inputs"], found["dead_outputs"]) == (13.0, 0.0)
    assert found["input_spread"] == pytest.approx(6 / 5)


def test_kurtosis_is_that_of_the_whole(generator):
    x = torch.randn(600, 900, generator=generator) ** 3
    wide = x.double() - x.double().mean()
    expected = wide.pow(4).mean() / wide.square().mean() ** 2
    assert dict(measure(of(x), None))["kurtosis"] == pytest.approx(float(expected), rel=1e-4)


def test_what_an_outlier_hides_is_seen_by_the_balanced_ratio_alone(generator):
    x = torch.randn(256, 256, generator=generator)
    plain = dict(measure(of(x), None))
    x[:, ::16] *= 30.0
    hidden = dict(measure(of(x), None))
    assert hidden["nvfp4.sqnr_db"] > plain["nvfp4.sqnr_db"] - 1.0
    assert hidden["nvfp4.balanced_db"] < plain["nvfp4.balanced_db"] - 6.0
    assert hidden["nvfp4_even.balanced_db"] == pytest.approx(plain["nvfp4.balanced_db"], abs=0.5)


def test_of_few_elements_an_input_no_balanced_ratio_is_given(generator):
    found = dict(measure(of(torch.randn(7, 64, generator=generator)), None))
    assert "nvfp4.balanced_db" not in found
    assert "nvfp4.sqnr_db" in found


def test_a_sample_errs_by_what_it_says(generator):
    """In at least 85 of 100 weights the truth lies within two standard errors."""
    hits = 0
    for _ in range(100):
        sizes = torch.randn(512, 1, generator=generator).mul(0.5).exp()
        x = torch.randn(512, 64, generator=generator) * sizes
        truth = dict(measure(of(x), None))["int4_tensor.sqnr_db"]
        found = dict(measure(of(x), 8192))
        error = found["int4_tensor.sqnr_se_db"]
        assert 0 < error < 2
        hits += abs(found["int4_tensor.sqnr_db"] - truth) <= 2 * error
    assert hits >= 85


def test_exact_values_have_no_ratio():
    found = dict(measure(of(torch.eye(32)), None))
    assert "nvfp4.sqnr_db" not in found
    assert found["nvfp4.underflow"] == 0.0


def test_after_nan_nothing_is_quantized():
    x = torch.ones(32, 32)
    x[3, 4] = float("nan")
    found = dict(measure(of(x), None))
    assert found["nan"] == 1.0
    assert not any(key.endswith("_db") for key in found)
