"""Rules in closed form: which intervals reproduce, refute and leave open."""

import pytest
from number import Number
from verdicts import Rule, Verdict, together

from qprobe.errors import InputError

YES, NO, OPEN = Verdict.REPRODUCED, Verdict.REFUTED, Verdict.OPEN


def number(low, high):
    return Number(estimate=(low + high) / 2, low=low, high=high, n=5)


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        ({"kind": "above"}, 0.1, 0.2, YES),
        ({"kind": "above"}, -0.2, -0.1, NO),
        ({"kind": "above"}, -0.1, 0.1, OPEN),
        ({"kind": "above"}, 0.0, 0.1, OPEN),  # the limit itself is not above
        ({"kind": "above", "margin": 0.1}, -0.05, 0.05, NO),  # too small to matter
        ({"kind": "above", "margin": 0.1}, 0.01, 0.05, NO),  # there, and too small to matter
        ({"kind": "above", "margin": 0.1}, 0.01, 0.15, YES),
        ({"kind": "above", "than": 1.0}, 0.9, 0.99, NO),
        ({"kind": "below"}, -0.2, -0.1, YES),
        ({"kind": "below"}, 0.1, 0.2, NO),
        ({"kind": "below", "margin": 0.1}, -0.05, 0.3, NO),
        ({"kind": "below", "margin": 0.1}, -0.15, 0.05, OPEN),
        ({"kind": "within", "low": 0.97, "high": 1.03}, 0.98, 1.02, YES),
        ({"kind": "within", "low": 0.97, "high": 1.03}, 0.90, 0.96, NO),
        ({"kind": "within", "low": 0.97, "high": 1.03}, 1.04, 1.06, NO),
        ({"kind": "within", "low": 0.97, "high": 1.03}, 0.96, 1.0, OPEN),
    ],
)
def test_an_interval_decides(rule, low, high, verdict):
    assert Rule.read(rule).of(number(low, high)) is verdict


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ([YES, YES], YES),
        ([YES, OPEN], OPEN),
        ([YES, OPEN, NO], NO),
        ([YES, Verdict.NOT_RUN], Verdict.NOT_RUN),
        ([], Verdict.NOT_RUN),
    ],
)
def test_of_several_numbers_all_have_to_hold(verdicts, whole):
    assert together(verdicts) is whole


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "near"},
        {"kind": "above", "low": 1.0},
        {"kind": "above", "margin": -1.0},
        {"kind": "within", "low": 1.0, "high": 0.0},
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(given):
    with pytest.raises(InputError):
        Rule.read(given)
