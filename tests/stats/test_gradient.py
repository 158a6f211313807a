import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine

from qprobe.errors import InputError
from qprobe.stats import batch_noise, gradient_error, rounding_error


def randn(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_a_scaled_gradient_points_the_same_way(generator):
    g = randn(generator, 5, 7)
    found = gradient_error(g, 0.5 * g).scalars()
    assert found["cosine"].item() == pytest.approx(1.0)
    for key in ("norm_ratio", "projection", "lost_decrease"):
        assert found[key].item() == pytest.approx(0.5), key
    assert found["snr_db"].item() == pytest.approx(10 * math.log10(4))


def test_the_cosine_is_scipys(generator):
    g, h = randn(generator, 2, 1000)
    found = gradient_error(g, h).scalars()
    assert found["cosine"].item() == pytest.approx(1 - cosine(g, h), rel=1e-12)
    assert found["norm_ratio"].item() == pytest.approx(np.linalg.norm(h) / np.linalg.norm(g))


def test_shards_merge_to_the_concatenated_gradient(generator):
    g, h = randn(generator, 2, 1000)
    whole = gradient_error(g, h).scalars()
    parts = gradient_error(g[:300], h[:300]).merge(gradient_error(g[300:], h[300:])).scalars()
    for key, value in whole.items():
        assert parts[key].item() == pytest.approx(value.item(), rel=1e-13), key


def test_what_a_zero_gradient_leaves_missing():
    zero, one = torch.zeros(2), torch.ones(2)
    assert set(gradient_error(zero, zero).scalars()) == {"n"}
    assert gradient_error(zero, one).scalars()["snr_db"].item() == -math.inf
    gone = gradient_error(one, zero).scalars()
    assert "cosine" not in gone
    assert gone["lost_decrease"].item() == 1.0
    assert gone["norm_ratio"].item() == 0.0


def test_nan_in_a_gradient_is_seen():
    found = gradient_error(torch.tensor([1.0, math.nan]), torch.ones(2)).scalars()
    assert all(math.isnan(found[key]) for key in ("cosine", "projection", "snr_db"))


def test_a_deterministic_error_is_all_bias(generator):
    g = randn(generator, 50)
    found = rounding_error(g, [0.9 * g] * 4).scalars()
    assert found["variance"].item() == pytest.approx(0.0, abs=1e-30)
    assert found["squared_bias"].item() == pytest.approx(0.01)
    assert found["projection"].item() == pytest.approx(0.9)
    assert found["projection_stderr"].item() == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("k", [2, 3, 16])
def test_bias_and_variance_are_estimated_without_bias(k, generator):
    """ĝ = g + b + σ·noise: averaged over many repeats both estimates are the truth."""
    g, b, sigma = randn(generator, 200), 0.1 * randn(generator, 200), 0.5
    repeats = [rounding_error(g, g + b + sigma * randn(generator, k, 200)) for _ in range(400)]
    bias = torch.stack([r.squared_bias() for r in repeats])
    variance = torch.stack([r.variance() for r in repeats])
    for found, truth in ((bias, b.square().sum()), (variance, 200 * sigma**2)):
        stderr = found.std() / 20
        assert abs(found.mean() - truth) < 4 * stderr
    naive = torch.stack([r.offset[0] for r in repeats])
    assert naive.mean() - b.square().sum() > 4 * naive.std() / 20  # the uncorrected one is high


def test_the_standard_error_of_the_squared_bias_is_the_stated_one(generator):
    k, d, sigma = 8, 400, 0.5
    g = randn(generator, d)
    found = torch.stack(
        [rounding_error(g, g + sigma * randn(generator, k, d)).squared_bias() for _ in range(600)]
    )
    stated = math.sqrt(2) * d * sigma**2 / (k * math.sqrt(d))
    # Subtracting s²/k adds its own error: √(k/(k − 1)) in full, 7 % more at k = 8.
    assert found.std().item() == pytest.approx(stated * math.sqrt(k / (k - 1)), rel=0.1)


def test_estimates_by_slow_formula(generator):
    g, draws = randn(generator, 6), randn(generator, 3, 6)
    mean = draws.mean(0)
    variance = sum((draw - mean).square().sum() for draw in draws) / 2
    bias = (mean - g).square().sum() - variance / 3
    energy = g.square().sum()
    found = rounding_error(g, draws).scalars()
    assert found["variance"].item() == pytest.approx((variance / energy).item())
    assert found["squared_bias"].item() == pytest.approx((bias / energy).item())
    projections = (draws @ g) / energy
    assert found["projection"].item() == pytest.approx(projections.mean().item())
    assert found["projection_stderr"].item() == pytest.approx(
        projections.std().item() / math.sqrt(3)
    )
    assert found["draws"].item() == 3


def test_one_draw_has_no_variance(generator):
    g = randn(generator, 6)
    found = rounding_error(g, [g]).scalars()
    assert set(found) == {"n", "draws", "projection", "mean_error"}


def test_different_numbers_of_draws_do_not_merge():
    g = torch.ones(2)
    with pytest.raises(InputError, match="differ in dots"):
        rounding_error(g, [g]).merge(rounding_error(g, [g, g]))
    with pytest.raises(InputError, match="at least one draw"):
        rounding_error(g, [])


def test_batch_noise_is_the_variance_of_one_batch(generator):
    """g = μ + σ·noise, ĝ₁ = g₁ + τ·noise: the ratio is τ²/σ² and the share σ²d/(‖μ‖² + σ²d)."""
    d, sigma, tau = 200_000, 0.5, 0.2
    mean = randn(generator, d)
    first, second = mean + sigma * randn(generator, 2, d)
    found = batch_noise(first, second, first + tau * randn(generator, d)).scalars()
    assert found["noise_ratio"].item() == pytest.approx(tau**2 / sigma**2, rel=0.02)
    assert found["batch_noise"].item() == pytest.approx(0.25 / 1.25, rel=0.02)
    assert found["batch_cosine"].item() == pytest.approx(1 - cosine(first, second))


def test_equal_batches_have_no_noise_to_compare_with():
    g = torch.ones(3)
    found = batch_noise(g, g, g).scalars()
    assert "noise_ratio" not in found
    assert found["batch_noise"].item() == 0.0
    assert "batch_cosine" not in batch_noise(g, 0 * g, g).scalars()
