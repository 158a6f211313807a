import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, fbeta_score, jaccard_score, recall_score

from qprobe.engine.metrics import dice, f2, iou, overlap_counts, recall
from qprobe.errors import InputError


@pytest.mark.parametrize("threshold", [0.5, 0.2, 0.9])
def test_scores_are_scikit_learns(threshold):
    torch.manual_seed(0)
    logits, target = torch.randn(4, 1, 9, 7), torch.rand(4, 1, 9, 7) < 0.3
    counts = overlap_counts(logits, target, threshold).numpy()
    found = logits.sigmoid() > threshold
    for row, (one, other) in enumerate(zip(target.flatten(1), found.flatten(1), strict=True)):
        truth, guess = one.numpy(), other.numpy()
        assert dice(counts)[row] == pytest.approx(f1_score(truth, guess))
        assert f2(counts)[row] == pytest.approx(fbeta_score(truth, guess, beta=2))
        assert iou(counts)[row] == pytest.approx(jaccard_score(truth, guess))
        assert recall(counts)[row] == pytest.approx(recall_score(truth, guess))


def test_what_is_empty():
    nothing, missed, invented = [0, 0, 0], [0, 0, 4], [0, 4, 0]
    for score in (dice, f2, iou):
        assert score([nothing, missed, invented]).tolist() == [1.0, 0.0, 0.0]
    assert recall([nothing, missed, invented]).tolist() == [None, 0.0, None]


def test_pooled_is_the_score_of_the_summed_counts():
    counts = np.array([[1, 0, 1], [5, 2, 0]])
    assert float(dice(counts.sum(0))) == pytest.approx(12 / 15)


def test_zero_logits_are_no_finding():
    assert overlap_counts(torch.zeros(1, 4), torch.ones(1, 4)).tolist() == [[0, 0, 4]]


def test_what_has_no_overlap_is_refused():
    with pytest.raises(InputError, match=r"one shape \[batch, ...\], got \(1, 4\) and \(1, 5\)"):
        overlap_counts(torch.zeros(1, 4), torch.zeros(1, 5))
    with pytest.raises(InputError, match="2 of 4 logits are NaN"):
        overlap_counts(torch.tensor([[0.0, float("nan"), float("nan"), 1.0]]), torch.zeros(1, 4))
    with pytest.raises(InputError, match="threshold is a probability"):
        overlap_counts(torch.zeros(1, 4), torch.zeros(1, 4), threshold=1.0)
    with pytest.raises(InputError, match=r"\[..., 3\]"):
        dice([1, 2])
