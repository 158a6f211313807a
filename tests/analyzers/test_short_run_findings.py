"""From the records of short runs to claims: of many remedies one is better by luck."""

import pytest

from qprobe.analyzers.short_run_findings import findings
from qprobe.records import Record


def run(site, remedy, *gain):
    parts = [Record("", 0, site, "", "short_run", f"finished.{remedy}", 8.0)]
    for part, value in zip(
        ("", ".low", ".high", ".n"), (*gain, 20.0) if gain else (), strict=False
    ):
        parts.append(Record("", 0, site, "", "short_run", f"loss_gain.{remedy}{part}", value))
    return parts


ALONE = [*run("", "as it is"), *run("", "another seed", 0.001, 0.0, 0.002)]
LUCKY = run("a", "nvfp4-sr", 0.04, 0.01, 0.07)


@pytest.mark.parametrize(("others", "verb"), [(0, "lower"), (5, "do not change beyond doubt")])
def test_a_remedy_beside_others_has_to_be_surer(others, verb):
    """t_19(1 − 0.025/6) · √(20/19) / 1.96 = 1.54 times as far: 0.04 − 1.54 · 0.03 is below 0."""
    records = [*ALONE, *LUCKY]
    for number in range(others):
        records += run(f"b{number}", "nvfp4-sr", 0.0, -0.02, 0.02)
    (told,) = [one for one in findings(records) if one.sites == ("a",)]
    assert verb in told.claim


def test_the_control_at_the_layer_counts_as_no_remedy():
    records = [*ALONE, *LUCKY, *run("a", "bf16", 0.05, 0.04, 0.06)]
    (told,) = findings(records)
    assert (told.low, told.high) == (0.01, 0.07)
