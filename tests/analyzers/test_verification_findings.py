"""From the records of remedies to what is called verified: the best of many has to be sure."""

import pytest
from scipy import stats

from qprobe.analyzers.verification_findings import best, findings, recoveries
from qprobe.records import Record, Severity


def tried(site, remedy, estimate, low, high, n=16.0):
    values = {"": estimate, ".low": low, ".high": high, ".n": n}
    return [
        Record("", 0, site, "", "verification", f"recovery.{remedy}{part}", value)
        for part, value in values.items()
    ]


def score(value):
    return [
        Record("", 0, "", "", "verification", f"score.quantized{part}", one)
        for part, one in {"": value, ".low": 0.7, ".high": 0.9, ".n": 16.0}.items()
    ]


USELESS = [
    record for number in range(4) for record in tried("head", f"other{number}", 0.0, -0.02, 0.02)
]


def test_limits_hold_for_all_remedies_that_were_tried_but_not_for_the_control():
    records = [*tried("head", "bf16", 0.1, 0.06, 0.12), *tried("head", "svd", 0.08, 0.06, 0.12),
               *tried("stem", "svd", 0.0, -0.1, 0.1), *USELESS]  # fmt: skip
    found = recoveries(records)
    width = stats.t.isf(0.025 / 6, 15) * (16 / 15) ** 0.5 / stats.norm.isf(0.025)
    assert found["head"]["bf16"].low == 0.06
    assert found["head"]["svd"].low == pytest.approx(0.08 - 0.02 * width)
    assert found["head"]["svd"].high == pytest.approx(0.08 + 0.04 * width)


def test_the_luckiest_of_many_is_not_verified_and_is_alone():
    lucky = tried("head", "svd", 0.04, 0.01, 0.07)
    assert best(recoveries(lucky)["head"]) is not None
    records = [*score(0.8), *lucky, *USELESS]
    assert best(recoveries(records)["head"]) is None
    (told,) = findings(records)
    assert "does not help beyond doubt" in told.claim
    assert "svd" in told.claim


def test_one_that_is_sure_among_many_is_verified_by_those_limits():
    records = [*score(0.8), *tried("head", "svd", 0.08, 0.06, 0.12), *USELESS]
    told, _ = findings(records)
    assert told.claim.startswith("verified: svd at head recovers 0.08")
    assert told.severity is Severity.CRITICAL
    assert 0.04 < told.low < 0.06
    assert "limits hold for all remedies together" in told.control
