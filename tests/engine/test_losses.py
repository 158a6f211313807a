import math

import pytest
import torch

from qprobe.engine.losses import bce_tversky, bce_tversky_per_image
from qprobe.errors import InputError


def slowly(logits, target):
    """Pixel by pixel with Python floats."""
    images = []
    for image in range(logits.shape[0]):
        parts = []
        for channel in range(logits.shape[1]):
            zs = logits[image, channel].flatten().tolist()
            ys = target[image, channel].flatten().tolist()
            bce = tp = fp = fn = 0.0
            for raw, y in zip(zs, ys, strict=True):
                z = min(50.0, max(-50.0, raw))
                p = 1 / (1 + math.exp(-z))
                bce += y * math.log1p(math.exp(-z)) + (1 - y) * (z + math.log1p(math.exp(-z)))
                tp += p * y
                fp += p * (1 - y)
                fn += (1 - p) * y
            parts.append(bce / len(zs) + 1 - (tp + 1e-6) / (tp + 0.3 * fp + 0.7 * fn + 1e-6))
        images.append(sum(parts) / len(parts))
    return images


@pytest.mark.parametrize("shape", [(3, 1, 4, 5), (2, 3, 4, 4), (2, 1, 2, 3, 4), (1, 1, 7)])
def test_loss_equals_the_formula_pixel_by_pixel(shape):
    torch.manual_seed(0)
    logits = 20 * torch.randn(shape, dtype=torch.float64)
    target = (torch.rand(shape) < 0.3).double()
    got = bce_tversky_per_image(logits, target)
    assert got.tolist() == pytest.approx(slowly(logits, target), rel=1e-12)
    assert bce_tversky(logits, target).item() == pytest.approx(
        sum(slowly(logits, target)) / shape[0]
    )


def test_gradient_is_the_numerical_derivative():
    torch.manual_seed(1)
    logits = (3 * torch.randn(2, 2, 3, 3, dtype=torch.float64)).requires_grad_()
    target = (torch.rand(2, 2, 3, 3) < 0.4).double()
    assert torch.autograd.gradcheck(lambda z: bce_tversky_per_image(z, target), (logits,))


def test_gradient_by_hand():
    """One foreground pixel at z = 0 has the derivative −½ − 0.7·p′/0.85², p′ = ¼."""
    z = torch.zeros(1, 1, 1, dtype=torch.float64, requires_grad=True)
    bce_tversky(z, torch.ones_like(z)).backward()
    assert z.grad.item() == pytest.approx(-0.5 - 0.7 * 0.25 / 0.85**2, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("target_dtype", [torch.bool, torch.uint8, torch.float32])
def test_low_precision_and_integer_masks_give_the_loss_in_float32(dtype, target_dtype):
    logits = torch.linspace(-4, 4, 16).view(1, 1, 4, 4).to(dtype)
    target = (torch.arange(16).view(1, 1, 4, 4) % 3 == 0).to(target_dtype)
    got = bce_tversky(logits, target)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(slowly(logits.double(), target.double())[0], rel=1e-5)


def test_missed_pixels_weigh_more_than_false_alarms():
    sure, y = torch.tensor([[[8.0, -8.0]]]), torch.tensor([[[1.0, 0.0]]])
    both, neither = torch.tensor([[[8.0, 8.0]]]), torch.tensor([[[-8.0, -8.0]]])
    assert bce_tversky(sure, y) < bce_tversky(both, y) < bce_tversky(neither, y)


def test_empty_mask_left_empty_costs_nothing():
    logits = torch.full((1, 1, 8, 8), -60.0)
    assert bce_tversky(logits, torch.zeros_like(logits)).item() == pytest.approx(0.0, abs=1e-6)


def test_extremes_are_clamped_and_nan_is_not_hidden():
    logits = torch.tensor([[[float("inf"), float("-inf"), 1e9]]], requires_grad=True)
    loss = bce_tversky(logits, torch.tensor([[[0.0, 1.0, 1.0]]]))
    loss.backward()
    assert loss.isfinite()
    assert loss.item() > 100 / 3
    assert logits.grad.tolist() == [[[0.0, 0.0, 0.0]]]
    assert bce_tversky(torch.full((1, 1, 2), float("nan")), torch.zeros(1, 1, 2)).isnan()


@pytest.mark.parametrize("target", [torch.zeros(2, 4, 4), torch.zeros(2, 2, 4, 4)])
def test_a_target_of_another_shape_is_refused(target):
    with pytest.raises(InputError, match="one channel per class"):
        bce_tversky(torch.zeros(2, 1, 4, 4), target)
