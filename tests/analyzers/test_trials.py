"""Which remedy is tried, from literal records and findings."""

import pytest

from qprobe.analyzers.trials import INTENDED, Trial, trials
from qprobe.records.schema import Cause, Finding, Record, Role, Severity


def lost(site, product, **shares):
    """Records of a verification: the layer's own recipe first."""
    return [
        Record("", 0, site, product, "verification", f"lost_decrease.{name}{part}", value)
        for name, share in shares.items()
        for part, value in (("", share), (".low", share), (".high", share), (".n", 4.0))
    ]


def recovered(site, **gains):
    return [
        Record("", 0, site, "", "verification", f"recovery.{name}{part}", value)
        for name, gain in gains.items()
        for part, value in (("", gain), (".low", gain - 0.1), (".high", gain + 0.1), (".n", 8.0))
    ]


def deviation(site, severity=Severity.WARN, analyzer="conformance"):
    return Finding(
        analyzer=analyzer, claim="", cause=Cause.SCALE_MISSING, severity=severity, sites=(site,),
        roles=(Role.GRAD_OUTPUT,), effect=1.0, unit="", low=1.0, high=1.0, n=1, control="",
        remedy="", reference="",
    )  # fmt: skip


def test_the_recipe_whose_worst_product_loses_least_is_tried_beside_the_control():
    records = [
        *lost("fc", "wgrad dy", own=0.3, one=0.01, two=0.04),
        *lost("fc", "dgrad dy", own=0.3, one=-0.2, two=0.05),
        *lost("other", "wgrad dy", own=0.3, one=0.0, two=0.5),
    ]
    assert trials(["fc", "other", "fc"], [], records) == [
        Trial(site="fc", remedy="two"),
        Trial(site="fc", remedy="bf16"),
        Trial(site="other", remedy="one"),
        Trial(site="other", remedy="bf16"),
    ]


def test_a_forward_product_is_tried_under_the_recipe_that_recovers_most():
    records = recovered("fc", **{"bf16": 0.9, "svd": 0.8, "int4-adaptive": 0.5, "x": 0.05})
    assert trials(["fc"], [], records)[0] == Trial(site="fc", remedy="int4-adaptive")


@pytest.mark.parametrize(
    "records", [[], recovered("fc", bf16=0.9, x=-0.05), lost("fc", "a", own=1)]
)
def test_without_a_candidate_only_the_control_runs(records):
    assert trials(["fc"], [], records) == [Trial(site="fc", remedy="bf16")]


def test_a_quantizer_that_is_proven_wrong_is_put_right_first():
    records = lost("fc", "wgrad dy", own=0.3, one=0.01)
    assert trials(["fc"], [deviation("fc")], records)[0].remedy == INTENDED
    for harmless in (deviation("fc", Severity.INFO), deviation("fc", analyzer="gradients")):
        assert trials(["fc"], [harmless], records)[0].remedy == "one"
