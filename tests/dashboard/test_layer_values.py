import pytest
import synthetic_runs

from qprobe import records
from qprobe.dashboard.family import holder
from qprobe.dashboard.layer_values import bars, growing, keys, of_groups, of_model

PROBE = "dequantization"


@pytest.fixture
def found(library):
    return holder(library, library.run("vit-nvfp4-s0"), PROBE)


def test_the_values_of_layers_are_told_from_their_limits_and_their_operands(found):
    _, values = found
    known = keys(values)
    assert known[:2] == ["recovery", "sensitivity"]
    assert set(known[2:]) == {"recovery of input", "cumulative", "cumulative.additive"}
    (failing,) = [bar for bar in bars(values, "recovery") if bar.site == synthetic_runs.FAILING]
    assert (failing.value, failing.low, failing.high) == (0.055, 0.05, 0.055 + 0.006)
    assert [bar.value for bar in bars(values, "recovery of input")] == [0.05]


def test_kinds_pairs_and_the_model_are_no_layers(found):
    made, values = found
    assert set(values) == set(synthetic_runs.layers())
    with records.open(made.path) as run:
        kinds = bars(of_groups(run, PROBE, "kind."), "recovery")
        pairs = bars(of_groups(run, PROBE, "interaction"), "interaction")
        assert of_model(run, PROBE)["gap.low"] == 0.1 - 0.005
    assert [kind.site for kind in kinds] == ["linear 16×16", "conv2d 3×3"]
    assert [pair.value for pair in pairs] == [0.01]


def test_a_growing_set_is_read_in_the_order_in_which_it_grew(found):
    with records.open(found[0].path) as run:
        sets = growing(run, PROBE)
    assert [one.site for one in sets] == [synthetic_runs.FAILING, *synthetic_runs.layers()[:3]]
    assert (sets[1].value, sets[1].additive) == (0.055 + 0.004, 0.055 + 0.005)
    assert sets[1].low < sets[1].value < sets[1].high


def test_a_standard_error_is_an_interval():
    (bar,) = bars({"a": {"trace": 10.0, "trace.stderr": 1.0}}, "trace")
    assert (bar.low, bar.high) == (8.04, 11.96)
