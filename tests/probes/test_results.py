"""From states and summaries to numbers with a name."""

import pytest
import torch
from plain_probes import Alone, Windowed, seen
from torch import nn

from qprobe.probes import ranks
from qprobe.probes.assignment import assign
from qprobe.probes.observer import Observer
from qprobe.probes.packing import on_host
from qprobe.probes.results import Results, results
from qprobe.probes.summary import Summary
from qprobe.records.schema import Column, Role
from qprobe.sites import Site, discover
from qprobe.sites.discover import by_path, owners

MODEL = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
INPUT = Site("0", Role.INPUT, "linear")


class Answered(Observer):
    """An observer that has seen what it is told."""

    def __init__(self, slots, states, summaries):
        super().__init__(MODEL, slots, evaluation=True, clock=lambda: 0.0)
        self.given = states, summaries
        self.looked |= set(states)

    def take(self):
        return self.given


def slots_of(*probes):
    return assign(probes, discover(MODEL), by_path(owners(MODEL)), lenient=False)


def at(slots, site, name="alone"):
    return next(slot for slot in slots if slot.site == site and slot.probe.name == name)


def test_numbers_are_named_by_probe_site_role_and_key():
    x = torch.tensor([1.0, 3.0])
    found = Results(states={"alone": {INPUT: seen(x)}}, seen=frozenset())
    assert found.scalars == {
        "alone": {
            Column("0", "input", "alone", "n"): 2.0,
            Column("0", "input", "alone", "looks"): 1.0,
            Column("0", "input", "alone", "mean"): 2.0,
            Column("0", "input", "alone", "m2"): 2.0,
        }
    }
    (array,) = found.arrays(step=5)
    assert (array.step, *array.column) == (5, "0", "input", "alone", "all")


def test_a_probe_of_summaries_looks_when_all_is_merged():
    slots = slots_of(Windowed())
    slot = at(slots, INPUT, "windowed")
    summary = Summary(4)
    summary.observe(torch.ones(3, 4))
    found = results(slots, [slot], Answered(slots, {}, {INPUT: summary}))
    assert found.seen == {slot}
    assert found.scalars["windowed"][Column("0", "input", "windowed", "n")] == 12
    nothing = results(slots, [slot], Answered(slots, {}, {}))
    assert (nothing.seen, nothing.states) == (frozenset(), {})


def test_who_looked_and_had_nothing_to_see_was_not_deaf():
    slots = slots_of(Alone())
    slot = at(slots, INPUT)
    observer = Answered(slots, {}, {})
    observer.looked.add(slot)
    found = results(slots, [slot], observer)
    assert found.seen == {slot}
    assert found.scalars == {}


def test_an_error_says_which_probe_was_looking():
    class Broken(Windowed):
        name = "broken"

        def observe(self, view):
            raise ZeroDivisionError

    slots = slots_of(Broken())
    summary = Summary(4)
    summary.observe(torch.ones(3, 4))
    with pytest.raises(ZeroDivisionError) as caught:
        results(slots, slots, Answered(slots, {}, {INPUT: summary}))
    assert caught.value.__notes__ == ["while the probe broken at linear 0 input was looking"]


def test_a_joint_probe_adds_states_of_its_own():
    class Joint(Alone):
        name = "joint"

        def join(self, states):
            merged = None
            for state in states.values():
                merged = state if merged is None else merged.merge(state)
            return {Site("all", Role.OUTPUT, "linear"): merged}

    slots = slots_of(Joint())
    some = slots[:2]
    states = {slot: seen(torch.full((3,), float(n))) for n, slot in enumerate(some)}
    found = results(slots, some, Answered(slots, states, {}))
    assert found.scalars["joint"][Column("all", "output", "joint", "n")] == 6
    assert found.scalars["joint"][Column("all", "output", "joint", "mean")] == 0.5


def of_rank(slots, x):
    """As another process packs it: by the number of each slot."""
    inputs = slots.index(at(slots, INPUT))
    weight = slots.index(at(slots, Site("0", Role.WEIGHT, "linear")))
    return {inputs: seen(x), weight: seen(x)}, {}, {inputs}, None


def test_processes_merge_but_for_the_weights_that_each_has_whole(monkeypatch):
    slots = slots_of(Alone())
    mine, theirs = torch.zeros(2), torch.full((2,), 4.0)
    monkeypatch.setattr(ranks, "size", lambda: 2)

    def gather(packed):
        ours = packed.to_host().unpack()
        return [ours, on_host(of_rank(slots, theirs))]

    monkeypatch.setattr(ranks, "gather", gather)
    states = {slots[number]: state for number, state in of_rank(slots, mine)[0].items()}
    found = results(slots, list(states), Answered(slots, states, {}))
    numbers = found.scalars["alone"]
    assert numbers[Column("0", "input", "alone", "n")] == 4
    assert numbers[Column("0", "input", "alone", "mean")] == 2.0
    assert numbers[Column("0", "weight", "alone", "n")] == 2  # the same weights on both


def test_on_the_other_processes_there_are_none(monkeypatch):
    slots = slots_of(Alone())
    monkeypatch.setattr(ranks, "size", lambda: 2)
    monkeypatch.setattr(ranks, "gather", lambda _: None)
    states = {at(slots, INPUT): seen(torch.ones(1))}
    assert results(slots, list(states), Answered(slots, states, {})) is None
