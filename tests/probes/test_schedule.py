import pytest

from qprobe.errors import InputError
from qprobe.probes.schedule import ON_DEMAND, Every


def test_a_window_ends():
    assert [s for s in range(1, 20) if Every(4, first=3, last=12).due(s)] == [3, 7, 11]


def test_a_longer_interval_hits_steps_of_the_shorter():
    asked, stretched = Every(5), Every(5)
    due = {s for s in range(1, 100) if asked.due(s)}
    assert {s for s in range(1, 100) if stretched.due(s, stretch=3)} < due


def test_all_layers_have_their_turn():
    every = Every(10, layers=3)
    taken = [{n for n in range(7) if every.takes(n, turn)} for turn in range(3)]
    assert set.union(*taken) == set(range(7))
    assert sum(map(len, taken)) == 7


def test_on_demand_is_never_due():
    assert not any(ON_DEMAND.due(step) for step in range(100))


@pytest.mark.parametrize("wrong", [{"interval": 0}, {"first": 0}, {"layers": 0}, {"last": 0}])
def test_what_is_no_schedule(wrong):
    with pytest.raises(InputError, match="schedule"):
        Every(**wrong)
