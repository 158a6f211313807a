import numpy as np
import pytest
import torch

from qprobe.analyzers.base import Score
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
    assert sums.tolist() == [[1.0, 2.0]]
    assert score.of(torch.eye(3), (None, torch.tensor([0, 1, 0])))[:, 0].tolist() == [1, 1, 0]


def test_targets_of_another_shape_are_refused():
    with pytest.raises(InputError, match="takes logits"):
        Accuracy().of(torch.ones(2, 3), (None, torch.ones(3)))
