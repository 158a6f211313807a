import pytest
from sample_plans import interval, layer, record, whole

from qprobe.errors import InputError
from qprobe.plan.evidence import evidence
from qprobe.records import Record

NAN = float("nan")


def test_layers_in_the_order_in_which_they_came():
    gap = interval("", "gap", 0.2)
    found = evidence([*whole(), *gap, *layer("b", 4, 0.1), *layer("a", 6, screen=3.0)])
    assert (found.score_fp, found.score_q, found.parameters) == (0.9, 0.7, 10)
    assert found.gap is not None
    assert found.gap.low == pytest.approx(0.19)
    first, second = found.layers
    assert (first.path, first.parameters, first.screen) == ("b", 4, None)
    assert first.recovery is not None
    assert (first.recovery.estimate, first.recovery.high, first.recovery.n) == (0.1, 0.11, 40)
    assert (second.path, second.recovery, second.screen) == ("a", None, 3.0)


def test_a_run_that_was_only_screened_has_no_scores():
    found = evidence(layer("a", 1, screen=1.0))
    assert (found.score_fp, found.score_q, found.gap) == (None, None, None)


def test_the_last_step_counts():
    found = evidence([record("", "score.quantized", 0.6, step=3), *whole(), *layer("a", 1)])
    assert found.score_q == 0.6


def test_what_is_no_layer_does_not_count():
    others = [
        Record("run", 9, "a", "", "curvature", "parameters", 5.0),
        Record("run", 9, "a", "input", "dequantization", "recovery", 5.0),
        *interval("Linear", "kind.recovery", 0.1),
        *interval("a & b", "interaction", 0.1),
    ]
    found = evidence([*whole(), *layer("a", 1), *others])
    assert [(one.path, one.parameters, one.recovery) for one in found.layers] == [("a", 1, None)]


def test_sets_that_were_measured_together():
    found = evidence([
        *whole(),
        *(one for path in "abc" for one in layer(path, 1)),
        *interval("a", "cumulative", 0.15, step=2),
        *interval("b", "cumulative", 0.1, step=1),
        record("b", "cumulative.additive", 0.1, step=1),
    ])  # fmt: skip
    one, two = found.measured_score(["b"]), found.measured_score(["a", "b"])
    assert one is not None
    assert two is not None
    assert (one.estimate, two.estimate) == pytest.approx((0.8, 0.85))
    assert (two.low, two.high, two.n) == pytest.approx((0.84, 0.86, 40))
    assert found.measured_score(["a"]) is None


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([], "holds no recoveries of layers"),
        (whole(), "holds no recoveries of layers"),
        ([*whole(score_fp=NAN), *layer("a", 1)], "score.high_precision of the whole model is nan"),
        ([*whole(), *interval("a", "recovery", 1.0)], "the run holds no 'parameters' of a"),
        ([*layer("a", 1), record("a", "recovery", 1.0)], "the run holds no 'recovery.low' of a"),
        ([record("a", "parameters", 1.5)], "a is recorded with 1.5 parameters"),
        ([record("a", "parameters", -1.0)], "a is recorded with -1 parameters"),
        ([*layer("a", 1), *interval("a", "recovery", 0.1, half=-0.1)], "which is no interval"),
    ],
)
def test_what_is_missing_or_broken_is_named(records, sentence):
    with pytest.raises(InputError, match=sentence):
        evidence(records)
