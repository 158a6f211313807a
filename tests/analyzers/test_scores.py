import numpy as np
import pytest
import torch

from qprobe.analyzers.base import Score, SlopedScore
from qprobe.analyzers.scores import Accuracy, MeanLoss
from qprobe.errors import InputError


def test_mean_loss_is_the_mean_over_samples_of_several_batches():
    score = MeanLoss(loss=lambda output, batch: output[:, 0])
    assert isinstance(score, Score)
    sums = [score.of(torch.tensor([[1.0], [2.0]]), ()), score.of(torch.tensor([[6.0]]), ())]
    assert score.reduce(np.concatenate(sums).sum(0, keepdims=True)).tolist() == [-3.0]


def test_a_loss_of_a_whole_batch_is_refused():
    with pytest.raises(InputError, match=r"\[samples\], got shape \(\)"):
        MeanLoss(loss=lambda output, batch: output.sum()).of(torch.ones(2, 1), ())


def test_accuracy_of_classes_and_of_pixels():
    score = Accuracy()
    logits = torch.tensor([[[3.0, 0.0], [1.0, 2.0]]])  # one sample, two classes, two pixels
    sums = score.of(logits, (None, torch.tensor([[0, 0]])))
    assert sums.tolist() == [[1.0, 2.0, 0.0, 8.0]]  # margins 2 and -2
    assert score.reduce(sums).tolist() == [0.5]
    assert score.of(torch.eye(3), (None, torch.tensor([0, 1, 0])))[:, 0].tolist() == [1, 1, 0]


def test_logits_that_say_nothing_of_margins_do_not_hide_the_rest():
    """A class that is masked, a target that is none, a logit that is NaN."""
    logits = torch.tensor([[1.0, -torch.inf], [2.0, 1.0], [torch.nan, 0.0], [0.0, 1.0]])
    sums = Accuracy().of(logits, (None, torch.tensor([0, -100, 1, 1])))
    assert sums[:, 0].tolist() == [1, 0, 0, 1]
    assert sums[:, 2].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("shape", [(), (5,)])
def test_the_slope_of_accuracy_is_that_of_its_smooth_twin(shape):
    """By central differences; and it is the density of margins at 0 where they are normal."""
    drawn = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, *shape, generator=drawn, dtype=torch.float64)
    batch = (None, torch.randint(3, (6, *shape), generator=drawn))
    score = Accuracy()
    assert isinstance(score, SlopedScore)
    totals = score.of(logits, batch).sum(0)
    leaf = logits.clone().requires_grad_()
    gains = score.gains(leaf, batch, totals)
    assert gains.shape == (6,)
    gains.sum().backward()
    at, step = (2, 1, *[0] * len(shape)), torch.zeros_like(logits)
    step[at] = 1e-2
    ends = [float(score.gains(logits + s * step, batch, totals).sum()) for s in (1, -1)]
    assert float(leaf.grad[at]) == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=1e-3)


def test_a_shift_of_all_margins_gains_their_density_at_zero():
    """Margins are normal with mean 1 and deviation 2, whose density at 0 is 0.176."""
    normal = torch.distributions.Normal(1.0, 2.0)
    margins = normal.icdf((torch.arange(20_000) + 0.5) / 20_000)
    logits = torch.stack([margins, torch.zeros_like(margins)], 1).requires_grad_()
    batch = (None, torch.zeros(len(margins), dtype=torch.long))
    score = Accuracy()
    score.gains(logits, batch, score.of(logits, batch).sum(0)).sum().backward()
    density = float(normal.log_prob(torch.zeros(())).exp())
    assert float(logits.grad[:, 0].sum()) == pytest.approx(density, rel=0.03)


def test_logits_that_are_all_alike_have_a_slope():
    score, batch = Accuracy(), (None, torch.tensor([0, 1]))
    totals = score.of(torch.zeros(2, 2), batch).sum(0)
    assert score.gains(torch.zeros(2, 2), batch, totals).tolist() == [0.25, 0.25]


def test_targets_of_another_shape_are_refused():
    with pytest.raises(InputError, match="takes logits"):
        Accuracy().of(torch.ones(2, 3), (None, torch.ones(3)))
