import pytest
import torch
from torch import nn

import qprobe
from qprobe.analyzers.base import Subject
from qprobe.analyzers.remedies import in_force, prepared
from qprobe.analyzers.scores import MeanLoss
from qprobe.analyzers.verification import Verification
from qprobe.analyzers.verification_findings import recoveries
from qprobe.errors import InputError
from qprobe.quant.ptq import input_amax, smooth


def losses(output, batch):
    return (output - batch[1]).square().mean(1)


@pytest.fixture
def subject(generator):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 8))
    with torch.no_grad():
        model[2].weight[3] *= 400.0
        model[3].weight[:, 3] = 0.0
    batches = []
    with torch.no_grad():
        for _ in range(4):
            x = torch.randn(8, 32, generator=generator)
            batches.append((x, model(x) + 0.1))
    qprobe.convert(model, "bf16")
    qprobe.override(model, {"2": "int4-tensor"})
    return Subject(
        model=model, recipe=qprobe.recipe("int4-tensor"), batches=lambda: batches, loss=losses,
        score=MeanLoss(loss=losses),
    )  # fmt: skip


def test_a_recovery_is_the_score_with_the_remedy_less_the_score_without(subject):
    found = recoveries(list(Verification(["2"]).measure(subject)))["2"]

    def score():
        with torch.no_grad():
            return -torch.cat([losses(subject.model(b[0]), b) for b in subject.batches()]).mean()

    before = score()
    qprobe.override(subject.model, {"2": "int4-channel-token"})
    assert found["int4-channel-token"].estimate == pytest.approx(float(score() - before), abs=1e-6)
    qprobe.override(subject.model, {"2": "int4-tensor"})
    amax = input_amax(
        subject.model, ["2"], lambda: [subject.model(b[0]) for b in subject.batches()]
    )["2"]
    with smooth(subject.model, "2", amax):
        assert found["smooth"].estimate == pytest.approx(float(score() - before), abs=1e-6)


def test_everything_is_undone_to_the_bit(subject):
    module, x = subject.model[2], subject.batches()[0][0]
    setup, state = module.setup, {k: v.clone() for k, v in subject.model.state_dict().items()}
    output = subject.model(x)
    list(Verification(["2"], ["2"]).measure(subject))
    assert module.setup is setup
    assert not module._forward_hooks  # the one of svd
    assert torch.equal(subject.model(x), output)
    assert all(torch.equal(v, state[k]) for k, v in subject.model.state_dict().items())


def test_a_remedy_that_does_not_help_is_said_so(subject):
    verification = Verification(["2"])
    claims = [one.claim for one in verification.analyze(list(verification.measure(subject)))]
    assert any("does not help" in one and "smooth" in one for one in claims)
    assert any(one.startswith("verified: ") and "recovers" in one for one in claims)


def test_remedies_in_force_are_gone_after_an_exception(subject):
    module = subject.model[2]
    setup = module.setup
    with prepared(subject.model, "2", torch.ones(32)) as (setups, impossible):
        assert not impossible
        assert module.setup is setup
        with pytest.raises(RuntimeError, match="stop"), in_force({module: setups["svd"]}):
            raise RuntimeError("stop")
        assert module.setup is setup
    assert module.setup is setup


def test_a_site_that_is_none_is_named(subject):
    with pytest.raises(InputError, match="'9' is no quantized layer"):
        list(Verification(["9"]).measure(subject))
