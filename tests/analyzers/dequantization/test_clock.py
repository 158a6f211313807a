import pytest
from torch import nn

from qprobe.analyzers.dequantization.clock import Clock


def test_parts_add_up_in_passes_and_count_while_they_run():
    ticks = iter([0.0, 2.0, 10.0, 13.0, 20.0, 21.0, 30.0])
    clock = Clock(lambda: next(ticks))
    with clock.part("base"):
        pass  # 0 to 2
    assert clock.passes() == {}
    clock.unit = clock.seconds("base")
    assert clock.unit == 2.0
    with clock.part("race"):  # from 10
        assert clock.passes() == {"base": 1.0, "race": 1.5}  # at 13
        assert clock.seconds("race") == 10.0  # at 20
    assert clock.passes() == {"base": 1.0, "race": 5.5}  # until 21


def test_a_part_that_fails_is_counted():
    ticks = iter([0.0, 4.0])
    clock = Clock(lambda: next(ticks))
    with pytest.raises(ZeroDivisionError), clock.part("base"):
        _ = 1 / 0
    assert clock.seconds("base") == 4.0


def test_a_model_on_the_cpu_is_timed_by_the_processor():
    assert Clock.of(nn.Linear(1, 1)).seconds("anything") == 0.0
