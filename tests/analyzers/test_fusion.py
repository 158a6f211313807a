"""Fusions from literal records."""

from math import inf

import pytest

from qprobe.analyzers.fusion import Fusion
from qprobe.records.schema import Cause, Record, Severity


def found(now, plain=None, site="join/cat.0"):
    records = [
        Record("", 1, site, "output", "branch_energy", "imbalance", now),
        Record("", 1, site, "output", "branch_energy", "branch0.deviation", -now / 2),
        Record("", 1, site, "output", "branch_energy", "branch1.deviation", now / 2),
        Record("", 1, site, "branch", "branch_energy", "n", 8.0),
    ]
    if plain is not None:
        probe = "branch_energy.high_precision"
        records.append(Record("", 1, site, "output", probe, "imbalance", plain))
    return Fusion().analyze(records)


@pytest.mark.parametrize(
    ("now", "plain", "severities"),
    [
        (1.6, 1.6, []),
        (5.0, 5.0, [Severity.WARN]),
        (3.0, 1.5, [Severity.INFO]),
        (3.0, None, []),
        (inf, inf, [Severity.WARN]),
        (inf, 1.0, [Severity.WARN]),
    ],
)
def test_a_branch_starves_by_itself_or_against_the_control(now, plain, severities):
    said = found(now, plain)
    assert [one.severity for one in said] == severities
    assert all(one.cause is Cause.BRANCH_DEAD and one.n == 8 for one in said)
    assert all(one.claim.startswith("branch0") for one in said)


def test_the_claim_says_whether_four_bits_is_the_reason():
    assert "four bits is not the reason" in found(5.0, 5.0)[0].claim
    assert "more bits do not help" in found(5.0, 5.0)[0].remedy
    assert "in high precision 1.0 nats" in found(5.0, 1.0)[0].claim
    assert "control was not measured" in found(5.0)[0].claim


def test_a_branch_without_gradient_is_told_in_a_sentence():
    assert found(inf, inf)[0].claim == (
        "branch0 of join/cat.0 gets no gradient, and as little in high precision: four bits is not "
        "the reason"
    )
    assert found(inf, 1.0)[0].claim == (
        "branch0 of join/cat.0 gets no gradient; in high precision 1.0 nats less gradient energy "
        "than the strongest branch"
    )


def test_residual_additions_are_uneven_by_themselves():
    assert found(10.0, 10.0, "blocks.0/add.0") == []
    assert len(found(14.5, 14.5, "blocks.0/add.0")) == 1
