"""What a look takes, against a clock that is made up."""

import math
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qprobe.probes import ranks
from qprobe.probes.agenda import Agenda
from qprobe.probes.assignment import Slot
from qprobe.probes.budget import EARLY
from qprobe.probes.schedule import ON_DEMAND, Every
from qprobe.records.schema import Role
from qprobe.sites import Site

LIMIT = 0.05


class Named:
    def __init__(self, name):
        self.name = name
        self.needs = frozenset()

    def selects(self, site):
        return True

    def observe(self, view):
        return None


def slots_of(names, layers):
    probes = [Named(name) for name in names]
    return tuple(
        Slot(
            probe=probe,
            site=Site(f"layer{layer}", Role.INPUT, "linear"),
            module=None,
            layer=layer,
        )
        for layer in range(layers)
        for probe in probes
    )


class World:
    """A training whose steps and looks take as long as somebody says."""

    def __init__(self, schedules, layers, limit=LIMIT):
        self.slots = slots_of(schedules, layers)
        self.agenda = Agenda(self.slots, schedules, limit)
        self.step, self.elapsed, self.spent = 0, 0.0, 0.0
        self.fastest = math.inf
        self.looks: dict[int, tuple[Slot, ...]] = {}

    def go(self, seconds, cost):
        """One step; ``cost`` of a slot that is looked at. Says what was known before a look."""
        self.step += 1
        taken = self.agenda.due(self.step)
        before = self.spent, self.elapsed, self.fastest
        self.elapsed += seconds
        self.fastest = min(self.fastest, seconds)
        self.agenda.budget.step(seconds)
        if taken:
            self.looks[self.step] = taken
            self.pay(taken, cost)
        return before if taken else None

    def pay(self, taken, cost):
        spent: Counter[int] = Counter()
        for slot in taken:
            spent[self.agenda.account(slot)] += cost(slot)
        self.agenda.paid(taken, spent, 0.0)
        self.agenda.budget.choose(self.agenda.budget.share(stretch=1))
        self.spent += spent.total()


seconds = st.floats(1e-3, 10.0)
schedules = st.fixed_dictionaries(
    {
        "often": st.builds(Every, st.integers(1, 12)),
        "rare": st.builds(Every, st.integers(20, 60), st.integers(1, 4)),
        "some": st.builds(Every, st.integers(1, 12), layers=st.integers(1, 3)),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(seconds, min_size=30, max_size=120),
    costs=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=50),
    schedules=schedules,
)
@example(
    times=[1.0] * 60,
    costs=[3.0, 0.001],
    schedules={"often": Every(1), "rare": Every(20), "some": Every(2)},
)
def test_whatever_steps_and_looks_take_no_look_begins_in_debt(times, costs, schedules):
    """Σ of looks ≤ 5 % of the time so far, and what was too much is paid back when it is said."""
    world, drawn = World(schedules, layers=3), iter(range(10**9))
    for took in times:
        before = world.go(took, lambda _: costs[next(drawn) % len(costs)])
        if before is None or world.step == 1:
            continue
        spent, elapsed, fastest = before
        early = EARLY * fastest if world.step <= EARLY else 0.0
        assert spent <= LIMIT * max(elapsed, early) + 1e-9
    wait = world.agenda.budget.steps_in_debt
    looks, usual = len(world.looks), world.agenda.budget.step_s
    for _ in range(wait):
        before = world.go(usual, lambda _: 0.0)
    if world.step > EARLY and wait:
        assert len(world.looks) <= looks + 1  # at the earliest in the last of these steps
        assert world.spent <= LIMIT * world.elapsed + 1e-9


@settings(max_examples=60, deadline=None)
@example(
    step_s=1.0,
    each={"often": 0.125, "rare": 0.0, "some": 1.0},
    warm=1.0,
    schedules={"often": Every(1), "rare": Every(20), "some": Every(7, layers=3)},
)
@given(
    step_s=seconds,
    each=st.fixed_dictionaries({name: st.floats(0.0, 5.0) for name in ("often", "rare", "some")}),
    warm=st.floats(1.0, 20.0),
    schedules=schedules,
)
def test_steady_looks_never_cost_more_than_allowed(step_s, each, warm, schedules):
    """From step 20 on the excess is at most what the first looks, one site a probe, have taken."""
    world, met = World(schedules, layers=4), set()

    def cost(slot):
        name = slot.probe.name
        first = name not in met
        met.add(name)
        return step_s * each[name] * (warm if first else 1.0)

    samples = step_s * warm * sum(each.values())
    for _ in range(300):
        world.go(step_s, cost)
        if world.step >= EARLY:
            assert world.spent <= LIMIT * world.elapsed + samples + 1e-9
    known = sum(each[slot.probe.name] for slot in world.slots) * step_s
    if known + samples <= LIMIT * (300 - 60) * step_s / 2:  # room for everything, and to spare
        assert world.agenda.unseen == ()
        turns = max(one.interval * one.layers for one in schedules.values())
        if turns * world.agenda.budget.stretch < 300:  # else not every layer had its turn
            assert set(world.agenda.looked) == set(world.slots)


def test_layers_come_in_turn_however_the_interval_is_stretched():
    """Doubled from the second look on, every second step of the grid would be the same layers'."""
    world = World({"turns": Every(1, layers=2)}, layers=2, limit=None)
    taken = []
    for step in (1, 3, 5):  # steps that leave the same rest
        world.step = step - 1
        world.go(1.0, lambda _: 0.0)
        taken.append([slot.layer for slot in world.looks[step]])
    assert taken == [[0], [1], [0]]
    # A training that is taken up goes on with the turn.
    again = World({"turns": Every(1, layers=2)}, layers=2, limit=None)
    again.agenda.load_state_dict(world.agenda.state_dict())
    assert [slot.layer for slot in again.agenda.due(7)] == [1]


def test_a_large_model_is_seen_whole_in_its_first_steps():
    """Steps of a second, a thousandth of it for each of 40 layers: 4 % of one step."""
    world = World({"often": Every(10), "rare": Every(100)}, layers=40)
    for _ in range(120):
        world.go(1.0, lambda slot: 0.001 if slot.probe.name == "often" else 0.01)
    first = [step for step in world.looks if step <= EARLY and step != 11]
    assert [len(world.looks[step]) for step in first] == [1, 1, 38, 1, 1, 38]
    # then as they were asked for, all layers together
    assert [step for step in world.looks if step not in first] == [
        11,
        21,
        31,
        41,
        51,
        61,
        71,
        81,
        91,
        101,
        111,
    ]
    assert {len(taken) for step, taken in world.looks.items() if step > EARLY} == {40, 80}


def test_a_small_model_is_seen_in_pieces():
    """Each layer takes half a step, and five in a hundred may be spent: ten steps a layer."""
    world = World({"often": Every(10)}, layers=8)
    for _ in range(400):
        world.go(1.0, lambda _: 0.5)
    seen = [slot.layer for taken in world.looks.values() for slot in taken]
    assert seen[:8] == [4, 3, 0, 1, 2, 5, 6, 7]  # two in the middle, then in their order
    assert world.spent <= LIMIT * world.elapsed
    later = [taken for step, taken in world.looks.items() if step > 160]
    assert {len(taken) for taken in later} == {8}  # what is known is looked at together


def test_one_look_that_took_long_is_paid_back():
    world = World({"often": Every(10)}, layers=2)
    for step in range(1, 400):
        world.go(1.0, lambda _, step=step: 10.0 if step == 1 else 0.01)
    assert list(world.looks)[:2] == [1, 201]  # 10 s at 5 % of a second each step
    assert world.agenda.budget.stretch == 1


def test_without_a_budget_all_that_is_due_is_taken():
    world = World({"often": Every(3), "rare": Every(6, first=2, last=9)}, layers=2, limit=None)
    for _ in range(10):
        world.go(1.0, lambda _: 100.0)
    names = {at: {slot.probe.name for slot in taken} for at, taken in world.looks.items()}
    assert names == {
        1: {"often"}, 2: {"rare"}, 4: {"often"}, 7: {"often"}, 8: {"rare"}, 10: {"often"},
    }  # fmt: skip
    assert world.agenda.rounds == 6
    assert world.agenda.budget.balance_s == 0


def test_what_waits_beyond_its_last_step_is_given_up():
    world = World({"rare": Every(2, last=4)}, layers=3)
    for _ in range(100):
        world.go(1.0, lambda _: 1.0)
    assert list(world.looks) == [1]
    assert world.agenda.unseen == ()


def test_on_demand_costs_but_widens_nothing():
    world = World({"often": Every(10), "asked": ON_DEMAND}, layers=2)
    for _ in range(30):
        world.go(1.0, lambda _: 0.001)
    taken = world.agenda.everything()
    assert len(taken) == 4
    world.pay(taken, lambda slot: 1.0 if slot.probe.name == "asked" else 0.001)
    assert world.agenda.budget.stretch == 1
    assert world.agenda.budget.balance_s < 0


def test_processes_take_what_all_of_them_have_room_for(monkeypatch):
    said = []

    def agree(step, value):
        said.append((step, value))
        return max(value, -2.0)  # another one has room for two parts

    monkeypatch.setattr(ranks, "agree", agree)
    world = World({"often": Every(10)}, layers=6)
    for _ in range(4):
        world.go(1.0, lambda _: 1e-6)
    assert said == [(1, -1.0), (2, -1.0), (3, -4.0), (4, -2.0)]
    assert [len(taken) for taken in world.looks.values()] == [1, 1, 2, 2]


def test_it_goes_on_where_it_was():
    schedules = {"often": Every(10), "rare": Every(30)}
    whole, halved = World(schedules, layers=5), World(schedules, layers=5)
    for _ in range(90):
        whole.go(1.0, lambda _: 0.3)
    for _ in range(40):
        halved.go(1.0, lambda _: 0.3)
    again = World(schedules, layers=5)
    again.agenda.due(halved.step + 1)  # as a session does before its state is loaded
    again.agenda.load_state_dict(halved.agenda.state_dict())
    places = dict(zip(halved.slots, again.slots, strict=True))
    again.agenda.looked |= {places[slot]: n for slot, n in halved.agenda.looked.items()}
    again.agenda.waiting |= {places[slot]: n for slot, n in halved.agenda.waiting.items()}
    again.step = halved.step
    for _ in range(50):
        again.go(1.0, lambda _: 0.3)
    later = {step: [str(slot) for slot in taken] for step, taken in again.looks.items()}
    assert later == {
        step: [str(slot) for slot in taken] for step, taken in whole.looks.items() if step > 40
    }
    assert later


@pytest.mark.parametrize(("interval", "asked"), [("often", 10), ("asked", 1)])
def test_the_interval_is_the_shortest_of_those_that_look(interval, asked):
    agenda = World({"often": Every(10), "rare": Every(100), "asked": ON_DEMAND}, layers=1).agenda
    rare, one = (
        next(slot for slot in agenda.everything() if slot.probe.name == name)
        for name in ("rare", interval)
    )
    assert agenda.interval([rare]) == 100
    assert agenda.interval([rare, one]) == asked
