from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from qprobe import records
from qprobe.engine import results
from qprobe.engine.evaluation import Evaluation
from qprobe.engine.metrics import sample_statistics
from qprobe.records import RunInfo


def evaluation(samples: int, classes: int = 1, side: int = 8) -> Evaluation:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(samples, classes, side, side, generator=draw)
    masks = (torch.rand(samples, classes, side, side, generator=draw) > 0.7).float()
    masks[0] = 0  # a sample without foreground has no average precision

    def one(channel: int, x: Tensor) -> Tensor:
        return x[:, channel : channel + 1]

    return Evaluation(
        loss=0.5,
        classes={
            channel + 1: sample_statistics(one(channel, logits), one(channel, masks))
            for channel in range(classes)
        },
        samples=tuple(f"s{i}" for i in range(samples)),
        patients=tuple(f"p{i // 2}" for i in range(samples)),
        shown=[("s0", torch.randn(3, side, side), masks[0, :1], logits[0])],
    )


def written(tmp_path: Path, found: Evaluation) -> records.RunReader:
    with records.create(tmp_path / "run.qprobe", RunInfo(config={}, environment={})) as run:
        scores = results.test_results(run, found, step=7, epoch=2)
    reader = records.open(tmp_path / "run.qprobe")
    assert repr({metric.name: metric.value for metric in reader.metrics()}) == repr(
        dict(sorted(scores.items()))
    )
    return reader


def test_scores_that_are_undefined_are_absent(tmp_path):
    found = evaluation(5)
    with written(tmp_path, found) as run:
        assert {(m.step, m.epoch, m.split) for m in run.metrics()} == {(7, 2, "test")}
        table = {(s.sample, s.name): s for s in run.samples()}
    assert ("s0", "auprc") not in table
    assert table["s1", "auprc"].patient == "p0"
    expected = found.classes[1].per_sample()["dice"]
    for row, value in enumerate(expected):
        if value is None:
            assert (f"s{row}", "dice") not in table
        else:
            assert table[f"s{row}", "dice"].value == value


@pytest.mark.parametrize(("classes", "names"), [(1, [""]), (2, [".class1", ".class2"])])
def test_histograms_are_those_of_the_evaluation_in_its_order(classes, names, tmp_path):
    found = evaluation(150, classes)
    with written(tmp_path, found) as run:
        arrays = {array.key: array.data for array in run.arrays(probe="predictions")}
    assert len(arrays) == 3 * classes  # 64 + 64 + 22 samples
    for number, name in enumerate(names, start=1):
        parts = [arrays[f"histograms.test{name}.{first}"] for first in (0, 64, 128)]
        assert np.array_equal(np.concatenate(parts), found.classes[number].histograms)


def test_examples_come_back_as_they_were(tmp_path):
    found = evaluation(3)
    with written(tmp_path, found) as run:
        arrays = {array.key: array.data for array in run.arrays(probe="examples")}
    _, image, mask, logits = found.shown[0]
    assert np.array_equal(arrays["s0.image"], image.half().numpy())
    assert np.array_equal(arrays["s0.mask"], mask.numpy())
    assert np.array_equal(arrays["s0.logits"], logits.half().numpy())


def test_an_example_too_large_for_an_array_is_thinned(tmp_path):
    found = evaluation(2)
    image = torch.arange(3.0 * 600 * 600).view(3, 600, 600) / 100
    found.shown[0] = ("s0", image, torch.zeros(1, 600, 600), torch.zeros(1, 600, 600))
    with written(tmp_path, found) as run:
        arrays = {array.key: array.data for array in run.arrays(probe="examples")}
    assert np.array_equal(arrays["s0.image"], image[:, ::2, ::2].half().numpy())
    assert arrays["s0.mask"].shape == (1, 600, 600)


def test_an_evaluation_without_scores_leaves_its_loss(tmp_path):
    found = evaluation(3)
    found.classes, found.loss = {}, float("nan")
    with written(tmp_path, found) as run:
        assert run.samples() == []
        assert list(run.arrays(probe="predictions")) == []
