import pytest

from qprobe.errors import InputError
from qprobe.probes.budget import Budget, share


def told(budget, cost, looks=3, step_s=1.0):
    for _ in range(looks):
        for _ in range(10):
            budget.step(step_s)
        budget.look({10: cost})
        budget.choose(budget.share(stretch=1))


@pytest.mark.parametrize("wrong", ["much", "0%", "100%", -0.1, "nan"])
def test_a_budget_is_a_share(wrong):
    with pytest.raises(InputError, match="no share of a step"):
        share(wrong)


def test_the_first_look_warms_up_and_does_not_count():
    budget = Budget(0.01)
    told(budget, 100.0, looks=1)
    assert budget.stretch == 1


def test_looks_of_several_intervals_add_up():
    budget = Budget(0.01)
    for _ in range(2):
        budget.step(1.0)
        budget.look({10: 0.1, 100: 1.0})
    assert budget.share(stretch=1) == pytest.approx(0.02)


def test_noise_does_not_move_the_interval_to_and_fro():
    budget = Budget(0.02)
    told(budget, 0.5)
    assert budget.stretch == 3
    told(budget, 0.45, looks=20)  # 2.25 would do
    assert budget.stretch == 3
    told(budget, 0.01, looks=20)
    assert budget.stretch == 1


def test_a_pause_between_steps_is_no_long_step():
    budget = Budget(0.02)
    told(budget, 0.1)
    budget.step(10_000.0)
    assert budget.step_s == 1.0


def test_without_a_limit_nothing_is_stretched():
    budget = Budget(None)
    told(budget, 100.0)
    assert budget.stretch == 1
