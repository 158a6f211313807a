import numpy as np
import pytest
import torch

from qprobe.analyzers.base import Score
from qprobe.engine import evaluate
from qprobe.engine.subject import PooledAuprc, subject_of
from qprobe.engine.workbench import prepare
from qprobe.inference import average_precision


@pytest.fixture
def bench(small):
    return prepare(small(recipe="nvfp4", validation=0.25))


def judged(subject) -> tuple[float, float, list[str]]:
    statistics, losses, groups = [], [], []
    with torch.no_grad():
        for batch in subject.batches():
            output = subject.forward(subject.model, batch)
            statistics.append(subject.score.of(output, batch))
            losses.append(subject.loss(output, batch))
            groups += subject.groups(batch)
    totals = np.concatenate(statistics).sum(0, keepdims=True)
    return float(subject.score.reduce(totals)[0]), float(torch.cat(losses).mean()), groups


def test_the_subject_scores_and_loses_what_the_training_reports(bench):
    expected = evaluate(bench.model, bench.validation, bench.device, show=False)
    score, loss, groups = judged(subject_of(bench))
    assert score == expected.pooled()["auprc"]
    assert loss == pytest.approx(expected.loss, rel=1e-6)
    assert tuple(groups) == expected.patients


def test_it_is_validation_data_and_the_same_every_time(bench):
    subject = subject_of(bench)
    first, again = ([batch.samples for batch in subject.batches()] for _ in range(2))
    assert first == again
    assert {name for names in first for name in names} == {
        name for batch in bench.validation for name in batch.samples
    }
    tested = {name for batch in bench.test for name in batch.samples}
    assert not tested & {name for names in first for name in names}


def test_another_recipe_and_fewer_batches(bench):
    subject = subject_of(bench, recipe="int4-tensor", layers="all", batches=1)
    assert subject.recipe.name == "int4-tensor"
    assert bench.model.head.recipe.name == "int4-tensor"
    assert len(list(subject.batches())) == 1
    assert not bench.model.training


def test_the_score_is_the_pixels_average_precision():
    """Against every pixel sorted by its logit, as if the two images were one."""
    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = (
        logits + torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)) > 1
    ).float()
    batch = type("Batch", (), {"mask": mask})()
    score = PooledAuprc()
    assert isinstance(score, Score)
    found = score.reduce(score.of(logits, batch).sum(0, keepdims=True))
    exact = average_precision(logits.flatten().numpy(), mask.flatten().numpy())
    assert float(found[0]) == pytest.approx(exact, abs=5e-3)


def test_a_set_without_any_positive_is_masked():
    totals = np.ones((3, 1, 2, 1024))
    totals[1, :, 1] = 0
    assert np.ma.getmaskarray(PooledAuprc().reduce(totals)).tolist() == [False, True, False]
