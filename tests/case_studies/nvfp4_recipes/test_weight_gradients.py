import pytest
import torch
from weight_gradients import (
    FAULT,
    Gradients,
    error_of,
    gradients,
    mini_batch_noise,
    operand_shares,
    under,
    weights,
)

from qprobe.models import build
from qprobe.quant import NVFP4, QuantSpec, Rounding, fake_quantize

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [
    (torch.randn(4, 3, 32, 32, generator=GENERATOR), torch.zeros(4, 1, 32, 32)) for _ in range(2)
]
for _, mask in BATCHES:
    mask[:, :, 8:16, 8:16] = 1


@pytest.fixture(scope="module")
def model():
    return build("cnn", "tiny", image=32, channels=16, dropout=0.1)


@pytest.fixture(scope="module")
def reference(model):
    return gradients(under(model, "bf16", 0), BATCHES, weights(model))


def errors(model, reference, name, draws=0):
    names = weights(model)
    twin = under(model, name, 0)
    found = gradients(twin, BATCHES, names)
    more = [gradients(twin, BATCHES[:1], names)[0] for _ in range(draws)]
    return error_of(
        Gradients(
            reference=reference,
            quantized=found,
            draws=torch.stack(more) if more else found[:0],
        )
    )


def test_known_errors_have_known_bias_and_variance():
    # ĝ = g + (−0.1, ±1): the bias is −0.1 along the first element, the rest is noise.
    g = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    e = torch.tensor([[-0.1, 1.0], [-0.1, -1.0], [-0.1, 1.0], [-0.1, -1.0]], dtype=torch.float64)
    found = error_of(Gradients(reference=g, quantized=g + e, draws=g[:0]))
    variance = 4 / 3  # of 1, 3, 1, 3
    assert found["noise_ratio"] == pytest.approx(1.01 / variance)
    # ‖ē‖² = 0.01, less the variance 4/3 of the second element over four batches
    assert found["bias_ratio"] == pytest.approx((0.01 - 1 / 3) / variance)
    assert found["accumulated_ratio"] == pytest.approx(4 * 0.01 / variance)
    assert found["projection"] == pytest.approx(1 - (0.1 + 0.1 / 3) / 2)
    assert "parity_batches" not in found  # no bias was found


def test_a_pure_bias_has_a_batch_at_which_it_equals_the_noise():
    g = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    found = error_of(Gradients(reference=g, quantized=0.9 * g.mean() - g.mean() + g, draws=g[:0]))
    assert found["bias_ratio"] == pytest.approx(0.04 / 2)
    assert found["parity_batches"] == pytest.approx(50)


def test_high_precision_has_no_error(model, reference):
    found = errors(model, reference, "bf16")
    assert found["error"] == found["noise_ratio"] == found["bias_ratio"] == 0
    assert found["projection"] == pytest.approx(1)
    assert operand_shares(under(model, "bf16", 0), BATCHES[0]) == {}


def test_without_the_factor_of_the_tensor_nothing_is_left(model, reference):
    found = errors(model, reference, f"nvfp4{FAULT}")
    assert found["projection"] < 0.2
    shares = operand_shares(under(model, f"nvfp4{FAULT}", 0), BATCHES[0])
    assert (
        shares["underflow"]
        > 0.9
        > operand_shares(under(model, "nvfp4", 0), BATCHES[0])["underflow"]
    )


def test_stochastic_rounding_has_variance_and_less_bias_over_draws(model, reference):
    nearest = errors(model, reference, "gradient-nearest")
    found = errors(model, reference, "gradient-stochastic", draws=6)
    assert "draw_variance" not in nearest
    assert found["draw_variance"] > found["draw_squared_bias"]
    assert abs(found["draw_squared_bias"]) < nearest["error"]


def test_dropout_is_the_same_on_both_sides_and_differs_between_batches(model):
    names = weights(model)
    twice = gradients(under(model, "bf16", 0), [BATCHES[0], BATCHES[0]], names)
    again = gradients(under(model, "bf16", 1), [BATCHES[0], BATCHES[0]], names)
    assert torch.equal(twice, again)
    assert not torch.equal(twice[0], twice[1])


def test_the_mini_batch_noise_of_opposite_gradients_is_all_there_is():
    found = mini_batch_noise(torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64))
    assert found == {"batch_cosine": -1.0, "batch_noise": 2.0}


def test_what_stochastic_rounding_leaves_is_the_clipping_of_rounded_scales():
    # The page says so of the gradients; here of a heavy-tailed tensor, where both are known.
    generator = torch.Generator().manual_seed(0)
    spread = torch.exp(1.5 * torch.randn(4096, 16, generator=generator))
    x = torch.randn(4096, 16, generator=generator) * spread
    spec = QuantSpec(format=NVFP4, rounding=Rounding.STOCHASTIC)
    draws = torch.stack([fake_quantize(x, spec, -1, generator) for _ in range(64)])
    largest = draws.abs().amax((0, 2))[:, None]
    clipped = x.clamp(-largest, largest)

    def projection(y):
        return float((y * x).sum() / (x * x).sum())

    assert projection(draws.mean(0)) == pytest.approx(projection(clipped), abs=3e-3)
    assert projection(clipped) < 0.995
