"""A continuation against the training that was not interrupted."""

import pytest
import torch

from qprobe import records
from qprobe.engine import reopen, train
from qprobe.engine.continuation import Continuation

#: No dropout, so that nothing is random but the order of the data.
PLAIN = {"arch": "cnn", "model": {"dropout": 0.0}, "schedule": "constant", "augment": True}


def continuation(path):
    return Continuation(bench=reopen(path), path=path)


@pytest.fixture
def four(small, tmp_path):
    train(small(**PLAIN, recipe="nvfp4", steps=4), tmp_path / "four")
    return tmp_path / "four"


def test_it_takes_the_steps_that_the_training_would_have_taken(small, tmp_path, four):
    """Into the next epoch, with the optimizer's state, and twice alike."""
    train(small(**PLAIN, recipe="nvfp4", steps=7), tmp_path / "seven")
    with records.open(tmp_path / "seven" / "run.qprobe") as run:
        losses = [one.value for one in run.records(probe="training", key="loss")]
    assert len(losses) == 7
    again = continuation(four / "last.pt")
    assert again.resumes
    state = {name: value.clone() for name, value in again.bench.model.state_dict().items()}
    for _ in range(2):
        again.bench.model.load_state_dict(state)
        assert list(again(again.bench.model, 3)) == losses[4:]


def test_best_weights_begin_with_a_new_optimizer_and_data_from_their_epoch(four):
    again = continuation(four / "best.pt")
    assert not again.resumes
    model = again.bench.model
    before = [parameter.detach().clone() for parameter in model.parameters()]
    first = list(again(model, 2))
    assert any(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), before, strict=True):
            parameter.copy_(value)
    second = list(again(model, 2))
    assert first[0] == pytest.approx(second[0], rel=1e-5)  # running means moved, weights did not


def test_a_schedule_that_has_ended_is_taken_before_its_end(small, tmp_path):
    """At the end of a cosine the rate is 0: nothing would move."""
    config = small(**PLAIN | {"schedule": "cosine"}, steps=4, lr=1e-3)
    train(config, tmp_path / "run")
    again = continuation(tmp_path / "run" / "last.pt")
    seen = []
    step = torch.optim.Adamax.step

    def watched(self, *arguments):
        seen.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.optim.Adamax, "step", watched)
        list(again(again.bench.model, 2))
    # Steps 2 and 3 of 4 along half a cosine.
    assert seen == pytest.approx([0.5e-3, 0.5e-3 * (1 + 0.5**0.5 * -1)])
