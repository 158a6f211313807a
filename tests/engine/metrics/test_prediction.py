import numpy as np
import pytest
import torch

from qprobe import native
from qprobe.engine.metrics import BINS, LIMIT, logit_histograms
from qprobe.engine.metrics.prediction import BINS_A_LOGIT
from qprobe.inference.precision_recall import (
    average_precision,
    average_precision_bounds,
    average_precision_of_histograms,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_histograms_equal_numpys(dtype):
    torch.manual_seed(0)
    logits = (6 * torch.randn(3, 1, 16, 16)).to(dtype)
    target = torch.rand(3, 1, 16, 16) < 0.3
    got = logit_histograms(logits, target).numpy()
    edges = np.linspace(-LIMIT, LIMIT, BINS + 1)
    for image in range(3):
        for side in (0, 1):
            chosen = logits[image][target[image] == bool(side)].float().numpy()
            inside = np.clip(chosen, -LIMIT, np.nextafter(np.float32(LIMIT), np.float32(0)))
            assert (got[image, side] == np.histogram(inside, edges)[0]).all()


def test_nothing_is_lost_at_the_ends():
    logits = torch.tensor([[float("-inf"), -1e30, 1e30, float("inf")]])
    counts = logit_histograms(logits, torch.tensor([[0, 1, 0, 1]]))[0]
    assert counts[:, 0].tolist() == [1, 1]
    assert counts[:, -1].tolist() == [1, 1]
    assert counts.sum() == 4


def test_error_of_the_binned_average_precision():
    """Overlapping classes, 2 % foreground: bins of 1/32 cost less than 0.0003."""
    generator = torch.Generator().manual_seed(4)
    target = torch.rand(8, 1, 64, 64, generator=generator) < 0.02
    logits = 2 * torch.randn(8, 1, 64, 64, generator=generator) - 4 + 5 * target
    histogram = logit_histograms(logits, target).sum(0).numpy()
    exact = average_precision(logits.numpy(), target.numpy())
    low, high = average_precision_bounds(histogram)
    assert abs(float(average_precision_of_histograms(histogram)) - exact) < 0.0003
    assert low < exact < high
    assert high - low < 0.02


@pytest.mark.skipif(native.kernels is None, reason=native.describe())
@pytest.mark.parametrize("limit", native.InstructionSet)
@pytest.mark.parametrize("pixels", [(1,), (511,), (1, 16, 33), (2, 5, 1030)])
def test_the_kernel_counts_what_pytorch_counts(limit, pixels, monkeypatch):
    torch.manual_seed(0)
    logits = 12 * torch.randn(3, *pixels)
    logits[0].view(-1)[0], logits[-1].view(-1)[-1] = float("inf"), float("-inf")
    logits[1] = (logits[1] * BINS_A_LOGIT).round() / BINS_A_LOGIT  # on the edges of bins
    target = torch.rand(3, *pixels)
    native.kernels.select(limit)
    by_kernel = logit_histograms(logits, target)
    native.kernels.select(native.InstructionSet.AVX512)
    monkeypatch.setattr(native, "kernels", None)
    assert (by_kernel == logit_histograms(logits, target)).all()
    turned = logits.transpose(0, -1).contiguous().transpose(0, -1)
    assert (by_kernel == logit_histograms(turned, target)).all()
