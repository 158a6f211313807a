"""What every finding carries, whoever made it: unit, interval, n, control, remedy, reference."""

import math

import pytest
import torch
from analyzers.patients import subject
from torch import nn

from qprobe import checkpoints
from qprobe.analyzers.analysis import Inputs, Request
from qprobe.analyzers.analysis_file import Label, Place
from qprobe.analyzers.analyze import conduct
from qprobe.analyzers.base import ANALYZERS, Trained
from qprobe.analyzers.depth import Depth
from qprobe.faults import plant
from qprobe.quant import convert, recipe

RECIPE = "int4-tensor"


def broken(name):
    """A row of huge weights that a later norm takes back: one scale for all of it is too coarse."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 1)
    )
    x = torch.randn(2, 24, 32, generator=torch.Generator().manual_seed(1))
    x[:, :, 3] *= 60.0
    with torch.no_grad():
        batches = [(one, model.eval()(one)) for one in x]
    convert(model, name, layers="all")
    return subject(model, batches, recipe(name))


def asked(tmp_path, inputs, name, **request):
    place = Place(tmp_path / f"{name}.qprobe")
    return conduct(Label(title=name, recipe=RECIPE), inputs, Request(**request), place).findings


def of_a_model(tmp_path):
    return asked(
        tmp_path, Inputs(subject=broken(RECIPE)), "model", depth=Depth.THOROUGH, verify=True
    )


def of_defects(tmp_path):
    patient = broken("nvfp4-sr")
    with plant(patient.model, "stale-scale", "2", strength=8.0):
        return asked(tmp_path, Inputs(subject=patient), "defects", only=("conformance",))


def of_weights(tmp_path):
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    weight[7] *= 50.0
    torch.save({"a.weight": weight, "b.weight": weight.T.contiguous()}, tmp_path / "w.pt")
    return asked(tmp_path, Inputs(checkpoint=checkpoints.open(tmp_path / "w.pt")), "weights")


def of_trainings(tmp_path):
    trainings = [
        Trained(
            group="cnn", recipe=recipe, seed=seed, fold=None, metric="auprc",
            score=0.8 + 0.01 * seed - worse,
        )
        for recipe, worse in (("bf16", 0.0), (RECIPE, 0.2))
        for seed in range(6)
    ]  # fmt: skip
    return asked(tmp_path, Inputs(trainings=trainings), "trainings")


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    return [
        finding
        for made in (of_a_model, of_defects, of_weights, of_trainings)
        for finding in made(tmp_path_factory.mktemp("asked"))
    ]


def test_every_finding_is_whole(findings):
    for one in findings:
        for part in ("analyzer", "claim", "unit", "control", "remedy", "reference"):
            assert getattr(one, part).strip(), (part, one)
        assert one.low <= one.effect <= one.high, one
        assert not any(map(math.isnan, (one.low, one.effect, one.high))), one
        assert one.n >= 1
        assert one.analyzer in {*ANALYZERS.names(), "verification", "short_run"}
        assert "\n" not in one.claim


def test_these_are_findings_of_many_analyzers(findings):
    assert {one.analyzer for one in findings} >= {
        "conformance", "curvature", "dequantization", "outliers", "recipes", "verification",
        "weights",
    }  # fmt: skip
