import pytest

from qprobe.errors import InputError
from qprobe.probes.budget import EARLY, Asked, Budget, Cost, share


def of(limit, interval=10, sites=4):
    return Budget(limit, {"moments": Asked(interval, sites)})


def told(budget, cost, looks=3, step_s=1.0):
    for _ in range(looks):
        for _ in range(10):
            budget.step(step_s)
        budget.look({"moments": Cost(cost, 4)})
        budget.choose(budget.share(stretch=1))


@pytest.mark.parametrize("wrong", ["much", "0%", "100%", -0.1, "nan"])
def test_a_budget_is_a_share(wrong):
    with pytest.raises(InputError, match="no share of a step"):
        share(wrong)


def test_the_first_look_counts_until_the_second():
    budget = of(0.02)
    told(budget, 100.0, looks=1)
    assert budget.stretch == 500
    assert budget.balance_s == pytest.approx(10 * 0.02 - 100.0)
    told(budget, 0.1, looks=1)
    assert budget.stretch == 1
    assert budget.balance_s == pytest.approx(20 * 0.02 - 100.1)


def test_a_look_at_few_sites_says_what_all_would_take():
    budget = of(0.02, sites=40)
    budget.step(1.0)
    budget.look({"moments": Cost(0.1, 2)})
    assert budget.expected({"moments": 40}) == pytest.approx(2.0)
    assert budget.share(stretch=1) == pytest.approx(2.0 / 10)
    assert budget.expected({"moments": 1, "other": 1}) is None


def test_looks_of_several_intervals_add_up():
    budget = Budget(0.01, {"a": Asked(10, 1), "b": Asked(100, 1), "c": Asked(None, 1)})
    for _ in range(2):
        budget.step(1.0)
        budget.look({"a": Cost(0.1, 1), "b": Cost(1.0, 1), "c": Cost(9.0, 1)})
    assert budget.share(stretch=1) == pytest.approx(0.02)


def test_noise_does_not_move_the_interval_to_and_fro():
    budget = of(0.02)
    told(budget, 0.5)
    assert budget.stretch == 3
    told(budget, 0.45, looks=20)  # 2.25 would do
    assert budget.stretch == 3
    told(budget, 0.01, looks=20)
    assert budget.stretch == 1


def test_a_pause_between_steps_is_no_long_step_and_earns_nothing():
    budget = of(0.02)
    told(budget, 0.1)
    before = budget.balance_s
    budget.step(10_000.0)
    assert budget.step_s == 1.0
    assert budget.balance_s == pytest.approx(min(before + 0.02 * 2.0, 0.1))


def test_no_more_is_saved_than_one_look_takes():
    budget = of(0.02)
    told(budget, 0.1)
    for _ in range(1000):
        budget.step(1.0)
    assert budget.balance_s == pytest.approx(0.1)


def test_in_the_first_steps_there_is_room_for_what_twenty_allow():
    budget = of(0.02)
    assert budget.room_s == 0.0  # before anything is known
    budget.step(3.0)  # the first one warms up
    budget.step(1.0)
    assert budget.early
    assert budget.room_s == pytest.approx(0.02 * (3.0 + 1.0 + (EARLY - 2) * 1.0))
    for _ in range(EARLY):
        budget.step(1.0)
    assert not budget.early
    assert budget.room_s == budget.balance_s


def test_a_debt_is_said_in_steps():
    budget = of(0.02)
    told(budget, 0.5, looks=1)
    assert budget.balance_s == pytest.approx(-0.3)
    assert budget.steps_in_debt == 15


def test_without_a_limit_nothing_is_stretched_or_owed():
    budget = of(None)
    told(budget, 100.0)
    assert budget.stretch == 1
    assert budget.steps_in_debt == 0
    assert budget.room_s == float("inf")
