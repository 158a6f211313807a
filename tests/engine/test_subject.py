import numpy as np
import pytest
import torch

from qprobe.analyzers.base import Score, SlopedScore
from qprobe.engine import evaluate
from qprobe.engine.subject import PooledAuprc, subject_of
from qprobe.engine.workbench import prepare
from qprobe.inference import average_precision
from qprobe.quant.remembering import remembering


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


def test_to_the_bit_also_where_weights_are_remembered(small):
    """In high precision the last layer shows all there is; in four bits it would round it away."""
    bench = prepare(small(arch="vit", recipe="nvfp4", validation=0.25))
    subject = subject_of(bench)
    batch = next(iter(subject.batches()))
    with torch.no_grad(), remembering(subject.model.modules()):
        output = subject.forward(subject.model, batch)
    shown = evaluate(bench.model, bench.validation, bench.device, show=True).shown
    for row, (_, _, _, logits) in enumerate(shown[: len(output)]):
        assert torch.equal(logits, output[row])


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


@pytest.mark.parametrize("classes", [1, 3])
def test_gains_are_the_slope_of_the_score(classes):
    """Against the score of logits moved a little, both ways, along something that matters."""
    random = torch.Generator().manual_seed(0)
    truth = torch.randint(0, max(2, classes), (6, 64, 64), generator=random)
    hot = torch.nn.functional.one_hot(truth, max(2, classes)).movedim(-1, 1).float()
    hot = hot[:, 1:] if classes == 1 else hot
    noise = torch.randn(2, 6, classes, 64, 64, generator=random)
    logits = (2 * hot + noise[0]).requires_grad_()
    direction = 0.5 * hot + noise[1] * logits.detach().sin()
    batch = type("Batch", (), {"mask": hot if classes == 1 else truth})()
    score = PooledAuprc()
    assert isinstance(score, SlopedScore)
    totals = score.of(logits, batch).sum(0)
    gains = score.gains(logits, batch, totals)
    assert gains.shape == (6,)
    gains.sum().backward()
    predicted = float((logits.grad * direction).sum())
    few = 0.1
    up, down = (
        float(score.reduce(score.of(logits + sign * few * direction, batch).sum(0)[None])[0])
        for sign in (1, -1)
    )
    assert predicted == pytest.approx((up - down) / (2 * few), rel=0.05)


def test_gains_of_a_class_that_nobody_has_are_none():
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    batch = type("Batch", (), {"mask": torch.randint(0, 2, (2, 8, 8))})()
    score = PooledAuprc()
    score.gains(logits, batch, score.of(logits, batch).sum(0)).sum().backward()
    assert logits.grad[:, 1].abs().sum() > 0
    assert not logits.grad[:, 2].any()
    assert not logits.grad[:, 0].any()  # the background is not judged
