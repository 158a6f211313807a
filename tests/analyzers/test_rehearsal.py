"""Subjects of all kinds of mistakes, each told by the part that has it."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import qprobe
from qprobe.analyzers.rehearsal import rehearse
from qprobe.analyzers.scores import Accuracy
from qprobe.errors import InputError


def made():
    drawn = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 4))
    qprobe.convert(model, "int4-tensor", layers="all")
    batches = [(torch.randn(6, 8, generator=drawn), torch.arange(6) % 4)]
    return qprobe.Subject(
        model=model, recipe=qprobe.recipe("int4-tensor"), batches=lambda: batches,
        loss=lambda output, batch: cross_entropy(output, batch[1], reduction="none"),
        score=Accuracy(), name="mine",
    )  # fmt: skip


def raising(*_):
    raise KeyError("boo")


def with_nan(subject):
    subject.model[3].weight.data[0, 0] = torch.nan
    return subject


class Sloped(Accuracy):
    """An accuracy that tells its slope as it is told to."""

    def gains(self, output, batch, totals):
        if self.name == "raises":
            raising()
        return output.sum() if self.name == "one" else output.sum(1)


def exhausted(subject):
    only = iter(list(subject.batches()))
    return replace(subject, batches=lambda: only)


WRONG = {
    "batches of mine is a list; give a function": lambda s: replace(s, batches=s.batches()),
    "batches of mine raised KeyError: 'boo', on the": lambda s: replace(s, batches=raising),
    "batches of mine gives no batch": lambda s: replace(s, batches=list),
    "batches of mine gives the same iterator at every call": exhausted,
    "forward of mine raised RuntimeError: mat1 and mat2": lambda s: replace(
        s, batches=lambda: [(torch.zeros(2, 5), torch.zeros(2).long())]
    ),
    "some of mine raised KeyError": lambda s: replace(s, some=raising),
    "some of mine gives a batch with 6 losses for one": lambda s: replace(
        s, some=lambda batch, rows: batch
    ),
    "forward of mine raised IndexError": lambda s: replace(s, some=lambda batch, rows: ()),
    "loss of mine raised KeyError": lambda s: replace(s, loss=raising),
    r"loss of mine is \[\]; return one number a sample": lambda s: replace(
        s, loss=lambda output, batch: cross_entropy(output, batch[1])
    ),
    "loss of mine is float": lambda s: replace(s, loss=lambda *_: 0.5),
    "losses of 5 samples and scores of 6": lambda s: replace(
        s, loss=lambda output, batch: cross_entropy(output, batch[1], reduction="none")[:5]
    ),
    "loss of mine in high precision is NaN or infinite": with_nan,
    "score.gains of mine raised KeyError": lambda s: replace(s, score=Sloped(name="raises")),
    r"gains of the score of mine is \[\]; return one number a sample, here \[6\]": (
        lambda s: replace(s, score=Sloped(name="one"))
    ),
    "groups of mine raised KeyError": lambda s: replace(s, groups=raising),
    "mine names 1 groups for 6 samples": lambda s: replace(s, groups=lambda _: ["anna"]),
}


@pytest.mark.parametrize("says", WRONG)
def test_a_mistake_is_told_by_its_part_before_anything_is_measured(says, tmp_path):
    with pytest.raises(InputError, match=says):
        qprobe.analyze(WRONG[says](made()), tmp_path / "a.qprobe")
    assert list(tmp_path.iterdir()) == []


def test_a_usable_subject_is_left_as_it_was():
    subject = made()
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    modules = list(subject.model.modules())
    state = torch.get_rng_state()
    rehearse(subject)
    assert subject.model.training
    assert list(subject.model.modules()) == modules
    assert torch.equal(torch.get_rng_state(), state)
    after = subject.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


class Around(nn.Module):
    """Uses the weights of its layers without calling them."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        return x @ self.first.weight.T @ self.last.weight.T


def test_a_model_of_which_no_quantized_layer_runs_has_nothing_to_say():
    model = Around()
    qprobe.convert(model, "int4-tensor", layers="all")
    with pytest.raises(InputError, match=r"no quantized layer of mine ran .* \(first and last\)"):
        rehearse(replace(made(), model=model))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_of_which_some_layer_does_not_run_is_fine():
    subject = made()
    subject.model.idle = nn.Linear(4, 4)
    subject.model.forward = lambda x: subject.model[3](subject.model[0](x))
    qprobe.convert(subject.model, "int4-tensor", layers="all")
    rehearse(subject)


def mapped(subject):
    (images, labels) = next(iter(subject.batches()))
    return replace(subject, batches=lambda: [{"pixels": images, "labels": labels}])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, r"batches of mine are mappings \(pixels and labels\), so say how the model takes one"),
        (
            {"forward": lambda model, batch: {"logits": model(batch["pixels"])}},
            "forward of mine gives a dict; return the tensor in it that is judged",
        ),
        (
            {"forward": lambda model, batch: model(batch["pixels"])},
            r"this one is a mapping; say where they are: Accuracy\(target=",
        ),
    ],
)
def test_mappings_as_hugging_face_has_them_are_told_what_to_write(change, said):
    def loss(output, batch):
        return cross_entropy(output, batch["labels"], reduction="none")

    with pytest.raises(InputError, match=said):
        rehearse(replace(mapped(made()), loss=loss, **change))


def test_mappings_that_are_explained_are_fine():
    rehearse(
        replace(
            mapped(made()),
            forward=lambda model, batch: model(batch["pixels"]),
            loss=lambda output, batch: cross_entropy(output, batch["labels"], reduction="none"),
            score=Accuracy(target=lambda batch: batch["labels"]),
        )
    )
