import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from qprobe.engine.data import Batch, Loader, LoaderConfig
from qprobe.engine.evaluation import SHOWN, evaluate, targets, training_loss
from qprobe.engine.losses import bce_tversky
from qprobe.engine.workbench import prepare
from qprobe.errors import InputError

CPU = torch.device("cpu")


class Fixed(nn.Module):
    """Logits that depend on the image alone, with dropout that must be off."""

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        self.classes = classes
        self.drop = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, self.classes).view(1, -1, *[1] * (x.dim() - 2))
        return self.drop(x.mean(1, keepdim=True) * 2 + ramp)


@pytest.fixture
def loader(small) -> Loader:
    return prepare(small(validation=3, batch=5)).validation


def everything(model: nn.Module, loader: Loader) -> tuple[np.ndarray, np.ndarray]:
    loader.restart(0)
    model.eval()
    batches = list(loader)
    logits = torch.cat([model(batch.image) for batch in batches])
    return logits.numpy(), torch.cat([batch.mask for batch in batches]).numpy()


def test_scores_are_those_of_all_pixels_together(loader):
    logits, masks = everything(Fixed(), loader)
    found = evaluate(Fixed(), loader, CPU, show=False)
    scores = found.pooled()
    expected = average_precision_score(masks.ravel(), logits.ravel())
    assert scores["auprc"] == pytest.approx(expected, abs=2e-3)  # histograms, not sorted logits
    predicted, true = logits > 0, masks > 0
    hit = (predicted & true).sum()
    assert scores["dice"] == pytest.approx(2 * hit / (predicted.sum() + true.sum()))
    losses = [
        float(bce_tversky(torch.tensor(z[None]), torch.tensor(y[None])))
        for z, y in zip(logits, masks, strict=True)
    ]
    assert found.loss == pytest.approx(np.mean(losses))


def test_every_sample_has_its_own_scores_in_the_order_of_the_set(loader):
    logits, masks = everything(Fixed(), loader)
    rows = list(evaluate(Fixed(), loader, CPU, show=False).per_sample())
    loader.restart(0)
    names = [(s, p) for batch in loader for s, p in zip(batch.samples, batch.patients, strict=True)]
    assert [row[:2] for row in rows] == names
    assert len(rows) == 12
    for (_, _, scores), z, y in zip(rows, logits, masks, strict=True):
        predicted, true = z > 0, y > 0
        total = predicted.sum() + true.sum()
        if true.any():
            assert scores["dice"] == pytest.approx(2 * (predicted & true).sum() / total)
        else:
            assert scores["auprc"] is None  # undefined, not zero


def test_the_model_and_the_loader_are_left_for_the_next_call(loader):
    model = Fixed().train()
    first = evaluate(model, loader, CPU, show=False)
    assert model.training
    assert evaluate(model.eval(), loader, CPU, show=False).pooled() == first.pooled()
    assert not model.training
    next(iter(loader))  # a position within the epoch
    assert evaluate(model, loader, CPU, show=False).samples == first.samples


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_logit_that_is_not_finite_leaves_no_score_and_a_loss_of_nan(value, loader):
    class Once(Fixed):
        seen = 0

        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            self.seen += 1
            if self.seen == 2:
                logits[1, 0, 3, 3] = value
            return logits

    found = evaluate(Once(), loader, CPU, show=False)
    assert found.classes == {}
    assert found.pooled() == {}
    assert math.isnan(found.loss)
    assert all(scores == {} for _, _, scores in found.per_sample())


class Classes:
    """Twelve images of four classes; class 3 is nowhere."""

    name, channels, classes = "classes", 1, 4
    patients = tuple(f"p{i}" for i in range(12))

    def __len__(self):
        return 12

    def __getitem__(self, i):
        from qprobe.engine.data import Sample

        draw = torch.Generator().manual_seed(i)
        mask = torch.randint(0, 3, (16, 16), generator=draw, dtype=torch.uint8)
        image = mask[None].float() + torch.randn(1, 16, 16, generator=draw)
        return Sample(image=image, mask=mask, patient=self.patients[i], sample=str(i))


def test_several_classes_are_averaged_without_background_and_without_the_absent():
    loader = Loader(Classes(), None, LoaderConfig(batch=5))
    found = evaluate(Fixed(4), loader, CPU, show=True)
    assert sorted(found.classes) == [1, 2, 3]
    tables = {number: statistics.pooled() for number, statistics in found.classes.items()}
    assert tables[3]["auprc"] is None
    mean = (tables[1]["auprc"] + tables[2]["auprc"]) / 2
    assert found.pooled()["auprc"] == pytest.approx(mean)
    _, image, mask, logits = found.shown[0]
    assert (image.shape, mask.shape, logits.shape) == ((1, 16, 16), (16, 16), (4, 16, 16))


def test_targets_are_one_channel_a_class():
    mask = torch.tensor([[[0, 2], [1, 1]]])
    logits = torch.zeros(1, 3, 2, 2)
    made = targets(logits, mask)
    assert made.dtype == logits.dtype
    assert made[0].tolist() == [[[1, 0], [0, 0]], [[0, 0], [1, 1]], [[0, 1], [0, 0]]]
    binary = torch.ones(1, 1, 2, 2)
    assert targets(torch.zeros(1, 1, 2, 2), binary) is binary
    with pytest.raises(InputError, match="logits and a target of one shape"):
        training_loss(torch.zeros(1, 2, 2, 2), binary)


def test_the_first_samples_are_shown_and_only_if_asked_for(loader):
    found = evaluate(Fixed(), loader, CPU, show=True)
    assert [name for name, *_ in found.shown] == list(found.samples[:SHOWN])
    for _, image, mask, logits in found.shown:
        assert (image.shape, mask.shape, logits.shape) == ((3, 32, 32), (1, 32, 32), (1, 32, 32))
    assert evaluate(Fixed(), loader, CPU, show=False).shown == []


def test_of_a_volume_the_middle_slice_is_shown():
    volume = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(2, 1, 5, 8, 8)

    class Volumes:
        def restart(self, epoch: int) -> None:
            """Nothing to go back to."""

        def __iter__(self):
            mask = (volume > 2).long()[:, 0]
            yield Batch(image=volume, mask=mask, patients=("a", "b"), samples=("a", "b"))

    found = evaluate(Fixed(2), Volumes(), CPU, show=True)
    _, image, mask, logits = found.shown[0]
    assert (image.shape, mask.shape, logits.shape) == ((1, 8, 8), (8, 8), (2, 8, 8))
    assert image.unique().tolist() == [2.0]
