"""What an observer makes of the tensors that hooks hand over."""

import pytest
import torch
from plain_probes import Alone, Together, Windowed
from torch import nn

from qprobe.probes.assignment import assign
from qprobe.probes.observer import Observer, draw_of
from qprobe.records.schema import Role
from qprobe.sites import Capture, discover
from qprobe.sites.discover import by_path, owners


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Watched:
    """A model, an observer of it and the capture between them."""

    def __init__(self, *probes, evaluation=False):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        sites, owned = discover(self.model), by_path(owners(self.model))
        self.slots = assign(probes, sites, owned, lenient=False)
        self.clock = Clock()
        self.observer = Observer(self.model, self.slots, evaluation=evaluation, clock=self.clock)
        watched = dict.fromkeys(site for slot in self.slots for site in slot.sites)
        self.capture = Capture(self.model, watched, self.observer)
        self.observer.bind(self.capture)

    def arm(self, *slots, account=1):
        self.capture.arm(self.observer.arm((slot, account) for slot in slots or self.slots))

    def run(self, x, times=1):
        with self.capture:
            for _ in range(times):
                self.model(x).sum().backward()
            self.capture.read_weights()
        return self.observer.take()


def at(states, path, role):
    ((_, found),) = (
        (slot, state)
        for slot, state in states.items()
        if (slot.site.path, slot.site.role) == (path, role)
    )
    return found


def test_draws_differ_from_look_to_look_and_not_from_process_to_process():
    draws = [draw_of(step, look) for step in range(50) for look in range(20)]
    assert len(set(draws)) == len(draws)
    assert all(0 <= draw < 2**31 for draw in draws)
    assert draw_of(3, 1) == 1139374076  # a whole number, without rounding


def test_what_is_not_armed_is_not_looked_at():
    watched = Watched(Alone())
    some = [slot for slot in watched.slots if slot.site.role is Role.INPUT]
    watched.arm(*some)
    states, summaries = watched.run(torch.randn(5, 4))
    assert set(states) == set(some)
    assert summaries == {}
    assert watched.observer.looks == len(some)


def test_calls_merge_until_they_are_taken_and_then_begin_anew():
    watched, x = Watched(Alone()), torch.randn(5, 4)
    watched.arm()
    states, _ = watched.run(x, times=3)
    assert at(states, "0", Role.INPUT).looks.item() == 3
    assert at(states, "0", Role.INPUT).moments.mean.item() == pytest.approx(
        x.double().mean().item()
    )
    assert watched.observer.take() == ({}, {})
    states, _ = watched.run(x)
    assert at(states, "0", Role.INPUT).looks.item() == 1


def test_one_summary_serves_all_probes_of_a_site():
    class Another(Windowed):
        name = "another"

    watched, x = Watched(Windowed(), Another()), torch.randn(5, 4)
    watched.arm()
    states, summaries = watched.run(x)
    assert states == {}
    (summary,) = (
        one for site, one in summaries.items() if (site.path, site.role) == ("0", Role.INPUT)
    )
    assert float(summary.scalars()["n"]) == 20
    assert watched.observer.looks == len(summaries)
    again, found = watched.run(x * 2)[1], summaries
    assert again.keys() == found.keys()
    site = next(iter(again))
    assert again[site] is not found[site]


def test_tensors_of_one_call_come_together_with_the_weight():
    watched, x = Watched(Together()), torch.randn(3, 4)
    watched.arm()
    states, _ = watched.run(x)
    # The gradient of a sum is one everywhere: dyᵀ·x has the sums of x in each row.
    last = at(states, "2", Role.GRAD_OUTPUT).moments
    hidden = watched.model[1](watched.model[0](x)).double()
    assert last.mean.item() == pytest.approx(hidden.sum(0).mean().item(), rel=1e-6)


@pytest.mark.parametrize(("evaluation", "expected"), [(False, 0), (True, 1)])
def test_evaluation_counts_only_when_asked_for(evaluation, expected):
    watched = Watched(Alone(), evaluation=evaluation)
    watched.model.eval()
    watched.arm()
    with watched.capture, torch.no_grad():
        watched.model(torch.randn(2, 4))
    states, _ = watched.observer.take()
    inputs = [slot for slot in states if slot.site.role is Role.INPUT]
    assert len(inputs) == 2 * expected
    with watched.capture:  # gradients are recorded: a pass of training whatever the mode
        watched.model(torch.randn(2, 4))
    assert len(watched.observer.take()[0]) == 4


def test_time_is_charged_to_the_account_and_what_is_shared_to_the_first():
    class Slow(Alone):
        def observe(self, view):
            watched.clock.now += 1.0
            return super().observe(view)

    watched = Watched(Slow(), Windowed())
    slow = [slot for slot in watched.slots if slot.probe.name == "alone"]
    shared = [slot for slot in watched.slots if slot.probe.name == "windowed"]
    armed = [*((slot, 7) for slot in slow), *((slot, 3) for slot in shared)]
    watched.capture.arm(watched.observer.arm(armed))
    watched.run(torch.randn(2, 4))
    assert watched.observer.spent == {3: 0.0, 7: float(len(slow))}


def test_an_error_of_a_probe_says_where():
    class Broken(Alone):
        name = "broken"

        def observe(self, view):
            raise ZeroDivisionError

    watched = Watched(Broken())
    watched.arm()
    with pytest.raises(ZeroDivisionError) as caught:
        watched.run(torch.randn(2, 4))
    assert "while the probe broken at linear 0 output, shape [2, 6], was looking" in " ".join(
        caught.value.__notes__
    )


def test_integers_are_not_looked_at():
    class Ids(Alone):
        def selects(self, site):
            return site.role is Role.INPUT

    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "fc": nn.Linear(3, 2)})
    slots = assign([Ids()], discover(model), by_path(owners(model)), lenient=False)
    observer = Observer(model, slots, evaluation=True, clock=Clock())
    capture = Capture(model, [slot.site for slot in slots], observer)
    observer.bind(capture)
    observer.arm((slot, 1) for slot in slots)
    observer(slots[0].site, torch.arange(3))
    assert observer.take() == ({}, {})
    observer(slots[0].site, torch.arange(3.0))
    assert len(observer.take()[0]) == 1


def test_references_go_on_and_nothing_is_held_after_forgetting():
    watched = Watched(Windowed())
    watched.arm()
    watched.run(torch.randn(5, 4))
    saved = watched.observer.references
    assert "linear 0 input" in saved
    again = Watched(Windowed())
    again.observer.references = {name: torch.full_like(one, 9.0) for name, one in saved.items()}
    assert {float(one) for one in again.observer.references.values()} == {9.0}
    watched.observer.forget()
    assert watched.observer.references == {}
    assert watched.run(torch.randn(5, 4)) == ({}, {})
