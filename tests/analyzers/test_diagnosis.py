"""The answer of several analyzers: its order from literals, and end to end on planted defects."""

from math import inf

import pytest
from analyzers.patients import convolutions, sick, transformer

from qprobe.analyzers.base import ANALYZERS
from qprobe.analyzers.diagnosis import diagnose, ranked
from qprobe.errors import InputError
from qprobe.records.schema import Cause, Finding, Role, Severity

PASSIVE = ("attention", "fusion", "gradients", "outliers")
EVERYBODY = (*PASSIVE, "conformance", "derivatives")


def finding(site, analyzer="outliers", **changes):
    values = {
        "claim": f"{site} is odd",
        "cause": Cause.CHANNEL_OUTLIER,
        "severity": Severity.WARN,
        "roles": (Role.INPUT,),
        "unit": "times the median channel",
        "effect": 12.0,
        **changes,
    }
    effect = values.pop("effect")
    interval = {"effect": effect, "low": changes.get("low", effect), "high": effect}
    values.pop("low", None)
    plain = {"n": 1, "control": "", "remedy": "", "reference": ""}
    return Finding(analyzer=analyzer, sites=(site,), **values, **interval, **plain)


def cost(site, effect, severity=Severity.CRITICAL):
    return finding(
        site,
        analyzer="dequantization",
        claim=f"{site} costs {effect}",
        cause=Cause.NOT_EXPLAINED,
        severity=severity,
        unit="score",
        effect=effect,
        low=effect / 2,
    )


def proof(site, share):
    return finding(
        site,
        analyzer="conformance",
        cause=Cause.SCALE_WRONG,
        unit="share of the operand's energy",
        effect=share,
    )


def sites(found):
    return [one.sites[0] for one in found]


def test_far_beyond_healthy_comes_before_near_whatever_the_unit():
    spike = finding("spike", cause=Cause.SPATIAL_OUTLIER, unit="times the median token", effect=8.1)
    found = ranked([finding("mild", effect=9.0), spike, finding("strong", effect=60.0)])
    assert sites(found) == ["strong", "mild", "spike"]


def test_proof_comes_before_evidence_and_the_larger_deviation_first():
    found = ranked([finding("far", effect=1e6), proof("small", 0.01), proof("large", 0.5)])
    assert sites(found) == ["large", "small", "far"]


def test_what_the_backward_products_lose_is_not_the_cause_of_a_cost():
    """A weight is an operand of both; a remedy of dgrad does nothing for the score."""
    backward = finding(
        "head", analyzer="dequantization", cause=Cause.NOT_EXPLAINED, roles=(Role.WEIGHT,),
        unit="share of the first-order loss decrease", effect=0.9, claim="loses",
    )  # fmt: skip
    found = ranked([backward, cost("head", 0.1)])
    assert [(one.claim, one.unit) for one in found] == [
        ("head costs 0.1", "score"), ("loses", "share of the first-order loss decrease"),
    ]  # fmt: skip


def test_a_gradient_that_is_lost_explains_no_cost_of_the_forward_product():
    """Else the layer is neither told by what it costs, nor a suspect whose remedies are tried."""
    short = finding(
        "fc", analyzer="gradients", claim="fc loses", cause=Cause.ROUNDING_BIAS,
        unit="share of the first-order loss decrease", effect=0.3, roles=(Role.GRAD_OUTPUT,),
    )  # fmt: skip
    found = ranked([short, cost("fc", 0.1)])
    assert [(one.claim, one.severity) for one in found] == [
        ("fc costs 0.1", Severity.CRITICAL),
        ("fc loses", Severity.WARN),
    ]


def test_a_gradient_that_is_no_derivative_is_a_proof():
    wrong = finding("norm", analyzer="derivatives", cause=Cause.BRANCH_DEAD, unit="", effect=10.0)
    assert sites(ranked([finding("far", effect=1e6), wrong])) == ["norm", "far"]


def test_causes_come_before_what_they_do():
    starved = finding("join", analyzer="fusion", cause=Cause.BRANCH_DEAD, unit="nats", effect=inf)
    short = finding("late", analyzer="gradients", cause=Cause.ROUNDING_BIAS, unit="", effect=0.9)
    assert sites(ranked([starved, short, finding("fc")])) == ["fc", "late", "join"]


def test_evidence_at_a_layer_that_is_proven_wrong_is_no_alarm_of_its_own():
    found = ranked([proof("fc", 0.1), finding("fc")])
    assert [(one.cause, one.severity) for one in found] == [
        (Cause.SCALE_WRONG, Severity.WARN),
        (Cause.CHANNEL_OUTLIER, Severity.INFO),
    ]


def test_a_gradient_that_is_lost_at_an_outlier_is_what_the_outlier_does():
    lost = finding(
        "fc",
        analyzer="gradients",
        cause=Cause.SCALE_MISSING,
        unit="share of the first-order loss decrease",
        effect=0.9,
    )
    found = ranked([lost, finding("fc", effect=9.0)])
    assert [one.severity for one in found] == [Severity.WARN, Severity.INFO]
    assert found[0].cause is Cause.CHANNEL_OUTLIER
    assert ranked([lost])[0].severity is Severity.WARN


def test_the_same_cause_at_a_site_is_said_once_with_all_roles():
    found = ranked([finding("fc"), finding("fc", roles=(Role.WEIGHT,), effect=30.0)])
    assert [(one.effect, one.roles) for one in found] == [(30.0, (Role.WEIGHT, Role.INPUT))]


def test_what_a_layer_costs_decides_where_it_was_measured():
    found = ranked(
        [
            finding("cheap", effect=1e6),
            finding("dear", effect=7.0),
            cost("dear", 0.2),
            cost("unexplained", 0.4),
            finding("late", roles=(Role.GRAD_OUTPUT,), unit="nats", effect=3.0),
        ]
    )
    assert [(one.sites[0], one.severity, one.unit) for one in found] == [
        ("unexplained", Severity.CRITICAL, "score"),
        ("dear", Severity.CRITICAL, "score"),
        ("late", Severity.WARN, "nats"),
        ("cheap", Severity.INFO, "times the median channel"),
    ]
    assert found[1].claim == "dear is odd; dear costs 0.2"
    assert (found[1].low, found[1].cause) == (0.1, Cause.CHANNEL_OUTLIER)


def test_infinite_evidence_comes_first():
    dead = finding("join", cause=Cause.BRANCH_DEAD, unit="nats of gradient energy", effect=inf)
    assert sites(ranked([finding("fc", effect=100.0), dead])) == ["join", "fc"]


@pytest.mark.parametrize("name", ["nvfp4-sr", "int4-channel-token"])
def test_a_healthy_model_is_let_go(name):
    found = diagnose(convolutions(name), EVERYBODY)
    assert not found.alarm
    assert any("attention_logits" in one for one in found.not_measured)
    assert found.records


PLANTED = [
    ("channel-outlier", 64.0, Cause.CHANNEL_OUTLIER),
    ("weight-outlier", 64.0, Cause.CHANNEL_OUTLIER),
    ("spatial-outlier", 64.0, Cause.SPATIAL_OUTLIER),
    ("dead-branch", 100.0, Cause.BRANCH_DEAD),
    ("stale-scale", 8.0, Cause.SCALE_WRONG),
    ("missing-gradient-scale", 1.0, Cause.SCALE_MISSING),
    ("nearest-gradient", 1.0, Cause.ROUNDING_BIAS),
    ("transposed-scales", 1.0, Cause.WRONG_AXIS),
    ("few-bits", 1.0, Cause.TOO_FEW_BITS),
    ("noise", 8.0, Cause.NOT_EXPLAINED),
]


@pytest.mark.parametrize(("kind", "strength", "cause"), PLANTED)
def test_a_planted_defect_comes_first_with_its_cause(kind, strength, cause):
    patient = convolutions()
    with sick(patient, kind, strength=strength) as places:
        found = diagnose(patient, EVERYBODY, batches=1)
    assert found.alarm
    assert found.findings[0].cause is cause
    assert found.findings[0].sites[0] in places


@pytest.mark.parametrize(
    ("kind", "strength", "cause"),
    [
        ("key-offset", 128.0, Cause.LOGIT_OFFSET),
        ("logit-growth", 64.0, Cause.LOGIT_GROWTH),
    ],
)
def test_planted_defects_of_attention_come_first(kind, strength, cause):
    patient = transformer()
    with sick(patient, kind, strength=strength) as places:
        found = diagnose(patient, ["attention", "conformance"])
    assert found.findings[0].cause is cause
    assert found.findings[0].sites[0] in places


def test_the_passive_analyzers_answer_from_records_alone():
    patient = convolutions()
    with sick(patient, "channel-outlier", strength=64.0):
        found = diagnose(patient, EVERYBODY, batches=1)
    again = [one for name in EVERYBODY for one in ANALYZERS.get(name).analyze(found.records)]
    assert tuple(ranked(again)) == found.findings


def test_nobody_to_ask_is_refused():
    with pytest.raises(InputError, match="at least one analyzer"):
        diagnose(convolutions(), [])


class _Unable:
    name = "unable"
    reads = frozenset({"unable"})

    def measure(self, subject):
        raise InputError(f"{subject.name} has no layers of the kind that this asks about.")
        yield

    def analyze(self, records):
        return []


def test_who_cannot_be_asked_is_reported():
    found = diagnose(convolutions(), [_Unable()])
    assert found.findings == ()
    assert found.not_measured == ("unable: model has no layers of the kind that this asks about.",)
