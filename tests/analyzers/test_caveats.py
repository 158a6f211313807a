"""Sentences beside the list of layers, from literal records and findings."""

from qprobe.analyzers.caveats import caveats
from qprobe.analyzers.dequantization.combine import AND
from qprobe.analyzers.dequantization.emit import Measured
from qprobe.records import Finding, Record, Role, Severity
from qprobe.records.schema import Cause

PARTS = ("", ".low", ".high", ".n")


def interval(key, site, values, step=0):
    return [
        Record("", step, site, "", "dequantization", key + part, value)
        for part, value in zip(PARTS, (*values, 16.0), strict=True)
    ]


GAP = [
    *interval("gap", "", (0.1, 0.05, 0.2)),
    *interval("score.high_precision", "", (0.8, 0.7, 0.9)),
]


def said(records, findings=(), *, problem=True):
    return list(caveats(Measured([*GAP, *records]), findings, (), problem=problem))


def test_layers_that_recover_together_are_named():
    steps = [
        one
        for step, site in enumerate(("head", "stem"), start=1)
        for one in interval("cumulative", site, (0.09, 0.06, 0.1), step)
    ]
    (line,) = said(steps)
    assert line == "head and stem in high precision recover 0.090 [0.060, 0.100] together."
    assert said(steps[:4]) == []  # one layer is no set
    assert not any("together" in line for line in said(steps, problem=False))


def test_pairs_that_do_not_add_up_are_told_and_so_is_that_none_was_found():
    grave = interval("interaction", f"a{AND}b", (-0.03, -0.05, -0.02))
    mild = interval("interaction", f"a{AND}c", (0.02, 0.01, 0.03))
    noise = interval("interaction", f"b{AND}c", (0.02, -0.01, 0.03))
    small = interval("interaction", f"b{AND}d", (0.002, 0.001, 0.003))  # 2 % of what is lost
    (line,) = said([*grave, *mild, *noise, *small])
    assert line == (
        "Of 4 pairs of layers 2 do not add up; the farthest are a and b, which recover 0.030 less "
        "together than the sum of what each recovers alone."
    )
    assert said(noise) == ["Of 1 pair of layers none surely fails only together."]


def test_layers_that_a_screen_did_not_reach_are_named():
    missing = [Record("", 0, site, "", "dequantization", "screen.missing", 1.0) for site in "ab"]
    (line,) = said(missing[:1])
    assert line.startswith("a was not reached when layers were screened: it did not run")
    (line,) = said(missing)
    assert line.startswith("a and b were not reached")


def test_what_curvature_says_of_the_whole_model_is_told_however_mild():
    told = Finding(
        analyzer="curvature", claim="the minimum tolerates it", cause=Cause.NOT_EXPLAINED,
        severity=Severity.INFO, sites=(), roles=(Role.WEIGHT,), effect=0.0, unit="loss", low=0.0,
        high=0.0, n=8, control="", remedy="", reference="",
    )  # fmt: skip
    assert said([], [told]) == ["The minimum tolerates it."]
