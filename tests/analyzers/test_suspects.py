from dataclasses import replace

import pytest
from torch import nn

import qprobe
from qprobe.analyzers.suspects import of_training, suspects, without_loss
from qprobe.records.schema import Cause, Finding, Record, Role, Severity

PLAIN = Finding(
    analyzer="outliers", claim="odd", cause=Cause.CHANNEL_OUTLIER, severity=Severity.WARN,
    sites=("1",), roles=(Role.INPUT,), effect=9.0, unit="times", low=9.0, high=9.0, n=8,
    control="", remedy="", reference="",
)  # fmt: skip


def at(site, severity=Severity.WARN, *roles, unit="times"):
    return replace(PLAIN, sites=(site,), severity=severity, roles=roles or PLAIN.roles, unit=unit)


@pytest.fixture
def model():
    made = nn.Sequential(*[nn.Linear(32, 32) for _ in range(6)])
    qprobe.convert(made, "nvfp4")
    return made


def test_the_gravest_come_first_and_the_rest_is_named(model):
    found = [
        at("1"), at("2"), at("3", Severity.CRITICAL), at("4", Severity.INFO), at("0"), at("none"),
        at("4", Severity.WARN, Role.GRAD_OUTPUT), replace(PLAIN, sites=("1", "2")), at("1"),
    ]  # fmt: skip
    assert suspects(found, model, 2) == (["3", "1"], ["4"], ["2"])


@pytest.mark.parametrize(
    ("finding", "trains"),
    [
        (at("1"), False),
        (at("1", Severity.WARN, Role.GRAD_OUTPUT), True),
        (at("1", Severity.WARN, Role.INPUT, Role.GRAD_WEIGHT), True),
        (at("./cat.0", Severity.WARN, Role.BRANCH), True),
        (at("1", unit="share of the first-order loss decrease"), True),
    ],
)
def test_what_an_evaluation_does_not_see_is_of_training(finding, trains):
    assert of_training(finding) is trains


def scored(gap, high=0.8):
    values = {"gap": gap, "score.high_precision": high}
    return [
        Record("", 0, "", "", "dequantization", key + part, value)
        for key, value in values.items()
        for part, value in (("", value), (".low", value), (".high", value), (".n", 16.0))
    ]


def test_without_a_loss_what_is_odd_is_information_but_for_the_backward_products():
    backward = at("2", Severity.WARN, Role.GRAD_OUTPUT)
    starved = at("./cat.0", Severity.WARN, Role.BRANCH)
    first, kept, second = without_loss([PLAIN, backward, starved], scored(0.001))
    assert [first, kept] == [backward, starved]
    assert (second.severity, second.claim) == (Severity.INFO, "odd; the score does not suffer")


@pytest.mark.parametrize("records", [[], scored(0.01), scored(0.001, high=0.0)])
def test_where_the_score_is_not_known_or_suffers_nothing_changes(records):
    assert without_loss([PLAIN], records) == [PLAIN]
