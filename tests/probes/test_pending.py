import pytest
import torch
from plain_probes import Together
from torch import nn

from qprobe.probes.assignment import Slot
from qprobe.probes.pending import WAITING, Pending, choose
from qprobe.records.schema import Role
from qprobe.sites import Site

X, DY = Site("a", Role.INPUT, "linear"), Site("a", Role.GRAD_OUTPUT, "linear")


@pytest.fixture
def slot():
    return Slot(
        probe=Together(), site=DY, module=nn.Linear(2, 2), layer=0, companions=(X,), weighted=True
    )


def test_a_gradient_meets_the_latest_call_that_lacks_one(slot):
    pending = Pending()
    for number in range(3):  # three calls in compiled code, where none has a number
        assert (
            pending.add(slot, Role.INPUT, torch.full((2, 2), float(number)), call=(0, 0), draw=0)
            is None
        )
    for number in (2, 1, 0):
        tensors = pending.add(slot, Role.GRAD_OUTPUT, torch.zeros(2, 2), call=(0, 0), draw=0)
        assert tensors[Role.INPUT][0, 0] == number
    assert len(pending) == 0


def test_what_is_held_is_a_copy(slot):
    pending, x = Pending(), torch.ones(2, 2)
    pending.add(slot, Role.INPUT, x, call=(1, 0), draw=0)
    x.zero_()
    assert pending.add(slot, Role.GRAD_OUTPUT, x, call=(1, 0), draw=0)[Role.INPUT].sum() == 4


def test_a_gradient_of_a_call_that_was_not_seen_is_left_alone(slot):
    pending = Pending()
    assert pending.add(slot, Role.GRAD_OUTPUT, torch.ones(2, 2), call=(0, 0), draw=0) is None
    assert len(pending) == 0


def test_calls_that_are_never_completed_are_given_up(slot):
    pending = Pending()
    for _ in range(WAITING + 10):
        pending.add(slot, Role.INPUT, torch.ones(2, 2), call=(0, 0), draw=0)
    assert len(pending) == WAITING


def test_few_examples_of_many_and_all_of_few():
    assert choose(torch.zeros(4, 600, 8), 0) is None
    assert len(choose(torch.zeros(64, 600, 8), 3)) == 4
    assert len(choose(torch.zeros(4096, 8), 3)) == 512  # tokens are examples here
    assert choose(torch.zeros(8), 0) is None
    moved = {tuple(choose(torch.zeros(64, 600, 8), draw).tolist()) for draw in range(16)}
    assert len(moved) == 16
