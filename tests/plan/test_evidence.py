import pytest
from sample_plans import layer, record, whole

from qprobe.errors import InputError
from qprobe.plan.evidence import evidence
from qprobe.records import Record


def test_layers_in_the_order_in_which_they_came():
    found = evidence([*whole(gap_low=0.1), *layer("b", 4, 0.1), *layer("a", 6, screen=3.0)])
    assert (found.score_fp, found.score_q, found.gap_low, found.n) == (0.9, 0.7, 0.1, 40)
    first, second = found.layers
    assert (first.path, first.parameters, first.screen) == ("b", 4, None)
    assert first.recovery is not None
    assert (first.recovery.estimate, first.recovery.high, first.recovery.n) == (0.1, 0.11, 40)
    assert (second.path, second.recovery, second.screen) == ("a", None, 3.0)
    assert found.parameters == 10


def test_the_last_step_counts():
    found = evidence([record("", "score_q", 0.6, step=3), *whole(), *layer("a", 1)])
    assert found.score_q == 0.6


def test_other_probes_and_roles_do_not_count():
    others = [
        Record("run", 9, "a", "", "curvature", "parameters", 5.0),
        Record("run", 9, "a", "input", "dequantization", "recovery", 5.0),
    ]
    found = evidence([*whole(), *layer("a", 1), *others])
    assert (found.layers[0].parameters, found.layers[0].recovery) == (1, None)


def test_sets_that_were_measured_together():
    limits = {"greedy_score_low": 0.7, "greedy_score_high": 0.9}
    found = evidence([
        *whole(),
        *layer("a", 1, greedy_rank=2, greedy_score=0.85, **limits),
        *layer("b", 1, greedy_rank=1, greedy_score=0.8, **limits),
        *layer("c", 1),
    ])  # fmt: skip
    one, two = found.measured_score(["b"]), found.measured_score(["a", "b"])
    assert one is not None
    assert two is not None
    assert (one.estimate, two.estimate) == (0.8, 0.85)
    assert found.measured_score(["a"]) is None


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([], "holds no recoveries of layers"),
        (whole(), "holds no recoveries of layers"),
        (layer("a", 1), "holds no recoveries of layers"),
        ([record("", "score_fp", 1.0), *layer("a", 1)], "score_q of the whole model is not in"),
        ([*whole(score_fp=float("nan")), *layer("a", 1)], "score_fp of the whole model is nan"),
        ([*whole(), record("a", "recovery", 1.0)], "parameters of a is not in the run"),
        ([*whole(), *layer("a", 1), record("a", "recovery", 1.0)], "recovery_low of a is not in"),
        ([*whole(), record("a", "parameters", 1.5)], "a is recorded with 1.5 parameters"),
        ([*whole(), record("a", "parameters", -1.0)], "a is recorded with -1 parameters"),
        ([*whole(), *layer("a", 1, 0.1, recovery_low=0.3)], "which is no interval"),
    ],
)
def test_what_is_missing_or_broken_is_named(records, sentence):
    with pytest.raises(InputError, match=sentence):
        evidence(records)
