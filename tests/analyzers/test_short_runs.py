"""Planted defects of a training: one that a remedy cures, one that a few steps do not feel."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import qprobe
from qprobe.analyzers.base import Subject
from qprobe.analyzers.scores import MeanLoss
from qprobe.analyzers.short_run_findings import LOSS_GAIN, UNIT
from qprobe.analyzers.short_runs import ShortRuns
from qprobe.analyzers.trials import INTENDED, Trial
from qprobe.errors import InputError
from qprobe.faults import plant

STEPS = 12
CURED = [Trial(site="2", remedy=INTENDED), Trial(site="2", remedy="bf16")]


def losses(output, batch):
    return (output - batch[1]).square().mean(1)


def batches(seed, count):
    drawn = torch.Generator().manual_seed(seed)
    teacher = torch.randn(32, 8, generator=torch.Generator().manual_seed(9)) / 6
    inputs = [torch.randn(16, 32, generator=drawn) for _ in range(count)]
    return [(x, (x @ teacher).tanh()) for x in inputs]


def continuation(model, steps):
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for x, y in batches(1, steps):
        optimizer.zero_grad()
        loss = losses(model(x), (x, y)).mean()
        (loss / 1000.0).backward()  # of the size of a mean over pixels
        optimizer.step()
        yield loss.item()


@pytest.fixture
def subject():
    """Dropout and stochastic rounding, so that unpaired random numbers would show."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.Dropout(0.1), nn.Linear(32, 8)
    )
    qprobe.convert(model, "nvfp4-sr", layers="all", generator=torch.Generator().manual_seed(0))
    validation = batches(2, 4)
    return Subject(
        model=model, recipe=qprobe.recipe("nvfp4-sr"), batches=lambda: validation, loss=losses,
        score=MeanLoss(loss=losses), continuation=continuation,
    )  # fmt: skip


def ran(subject, trials=CURED, steps=STEPS):
    runs = ShortRuns(trials, steps)
    records = list(runs.measure(subject))
    return records, runs.analyze(records)


def gain(records, site, remedy):
    values = {one.key: one.value for one in records if one.site == site}
    name = LOSS_GAIN + remedy
    return tuple(values[name + part] for part in ("", ".low", ".high"))


def test_a_gradient_without_its_scale_is_cured(subject):
    with plant(subject.model, "missing-gradient-scale", "2", strength=1.0):
        _, (found,) = ran(subject)
    assert found.sites == ("2",)
    assert found.unit == UNIT
    assert 0.0 < found.low < found.effect < found.high
    assert f"{STEPS} steps with {INTENDED} at 2 lower the validation loss" in found.claim
    assert found.remedy == "make 2 quantize as its recipe says"
    assert "high precision there" in found.claim


def test_rounding_that_is_not_stochastic_is_not_felt_in_a_few_steps(subject):
    with plant(subject.model, "nearest-gradient", "2", strength=1.0):
        _, (found,) = ran(subject)
    assert "do not change beyond doubt" in found.claim
    assert found.remedy.startswith("leave the layer as it is")


def test_a_remedy_that_changes_nothing_gains_exactly_nothing(subject):
    """The same batches, dropout and rounding noise in both runs, or it would not be 0."""
    records, (found,) = ran(subject)
    assert gain(records, "2", INTENDED) == (0.0, 0.0, 0.0)
    assert gain(records, "", "another seed")[0] != 0.0
    assert "do not change beyond doubt" in found.claim


def test_a_gain_is_the_loss_without_the_remedy_less_the_loss_with_it(subject):
    """By a plain loop over the same steps, nothing of the analyzer's."""
    records, _ = ran(subject, [Trial(site="2", remedy="bf16")], steps=3)

    def validation_loss(paths):
        model = subject.model
        state = {name: value.clone() for name, value in model.state_dict().items()}
        own = model[2].setup
        if paths:
            qprobe.override(model, dict.fromkeys(paths, "bf16"))
        torch.manual_seed(0)
        own.generator.manual_seed(0)
        model.train()
        list(continuation(model, 3))
        model.eval()
        with torch.no_grad():
            found = torch.cat([losses(model(x), (x, y)) for x, y in subject.batches()]).mean()
        model.load_state_dict(state)
        return float(found)

    expected = validation_loss([]) - validation_loss(["2"])
    assert gain(records, "2", "bf16")[0] == pytest.approx(expected, rel=1e-4)


def test_everything_is_undone_to_the_bit(subject):
    model, x = subject.model.eval(), subject.batches()[0][0]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    setup, state = model[2].setup, {k: v.clone() for k, v in model.state_dict().items()}
    drawn, output = setup.generator.get_state(), model(x)
    torch.manual_seed(5)
    random = torch.get_rng_state()
    ran(subject, steps=2)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(setup.generator.get_state(), drawn)
    assert model[2].setup is setup
    assert not model.training
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert torch.equal(model(x), output)


def test_an_interrupted_measurement_goes_on_where_it_was(subject):
    whole, _ = ran(subject)
    half = []
    for one in ShortRuns(CURED, STEPS).measure(subject):
        half.append(one)
        if one.key == f"finished.{INTENDED}":
            break
    rest = list(ShortRuns(CURED, STEPS, known=half).measure(subject))
    assert not any(one.key == f"loss.{INTENDED}" for one in rest)
    columns = {(one.column, one.step): one.value for one in (*rest, *half)}
    assert columns == {(one.column, one.step): one.value for one in whole}


def test_a_training_that_diverges_is_told_by_how_far_it_comes(subject):
    def diverging(model, steps):
        for number, loss in enumerate(continuation(model, steps)):
            wrong = type(model[2]) is not nn.Linear  # the layer is under its recipe
            yield math.nan if wrong and number >= 4 else loss

    _, (found,) = ran(replace(subject, continuation=diverging), CURED[1:])
    assert "stays finite for 12 steps with bf16 at 2, for 4 as it is" in found.claim
    assert (found.effect, found.low, found.high) == (8.0, 8.0, 8.0)
    assert found.remedy == "override(model, {'2': 'bf16'})"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda _: None, "offers no continuation"),
        (lambda plain: lambda model, steps: plain(model, 3), "ended after 3 of 12 steps"),
        ("unsteady", "another one at every call"),
    ],
)
def test_a_continuation_that_cannot_be_used_is_named(change, sentence, subject):
    change = unsteady if change == "unsteady" else change
    with pytest.raises(InputError, match=sentence):
        ran(replace(subject, continuation=change(subject.continuation)))


def unsteady(plain):
    drawn = torch.Generator().manual_seed(3)

    def train(model, steps):
        with torch.no_grad():
            model[0].weight += torch.randn(32, 32, generator=drawn)
        yield from plain(model, steps)

    return train


def test_a_short_run_has_a_step():
    with pytest.raises(InputError, match="at least 1 step"):
        ShortRuns(CURED, 0)
