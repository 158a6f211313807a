import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from qprobe.engine.metrics import SampleStatistics, sample_statistics, surface_dice
from qprobe.errors import InputError

NAMES = {"dice", "iou", "recall", "f2", "surface_dice", "auprc"}


def batch(seed, n=4):
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(n, 1, 12, 12, generator=generator) < 0.3
    logits = torch.randn(n, 1, 12, 12, generator=generator) + 2 * target
    return logits, target


def test_batches_join_to_the_statistics_of_all_images():
    (l1, t1), (l2, t2) = batch(0), batch(1, n=3)
    parts = [sample_statistics(l1, t1), sample_statistics(l2, t2)]
    joined = SampleStatistics.joined(parts)
    whole = sample_statistics(torch.cat([l1, l2]), torch.cat([t1, t2]))
    assert len(joined) == 7
    assert joined.per_sample() == whole.per_sample()
    assert joined.pooled() == whole.pooled()


def test_per_sample_scores_are_those_of_each_image():
    logits, target = batch(2)
    scores = sample_statistics(logits, target, tolerance=1.5, spacing=(1.0, 2.0)).per_sample()
    assert scores.keys() == NAMES
    for image in range(4):
        truth, guess = target[image, 0].numpy(), (logits[image, 0] > 0).numpy()
        assert scores["dice"][image] == pytest.approx(f1_score(truth.ravel(), guess.ravel()))
        assert scores["surface_dice"][image] == surface_dice(guess, truth, 1.5, (1.0, 2.0))
        exact = average_precision_score(truth.ravel(), logits[image].numpy().ravel())
        assert scores["auprc"][image] == pytest.approx(exact, abs=0.05)


def test_pooled_scores_are_those_of_all_pixels_together():
    logits, target = batch(3, n=9)
    pooled = sample_statistics(logits, target).pooled()
    truth, values = target.numpy().ravel(), logits.numpy().ravel()
    assert pooled["dice"] == pytest.approx(f1_score(truth, values > 0))
    assert pooled["auprc"] == pytest.approx(average_precision_score(truth, values), abs=0.005)


def test_an_image_without_foreground_has_no_recall_and_no_auprc():
    logits = torch.full((1, 1, 4, 4), -3.0)
    statistics = sample_statistics(logits, torch.zeros(1, 1, 4, 4))
    assert statistics.per_sample() == {
        "dice": [1.0],
        "iou": [1.0],
        "f2": [1.0],
        "surface_dice": [1.0],
        "recall": [None],
        "auprc": [None],
    }
    assert statistics.pooled()["auprc"] is None


def test_several_classes_and_no_batch_are_refused():
    with pytest.raises(InputError, match="slice a channel"):
        sample_statistics(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))
    with pytest.raises(InputError, match="no batch was evaluated"):
        SampleStatistics.joined([])


def test_statistics_carry_no_graph():
    logits, target = batch(5)
    statistics = sample_statistics(logits.requires_grad_(), target)
    assert isinstance(statistics.histograms, np.ndarray)
    assert statistics.histograms.sum() == logits.numel()
