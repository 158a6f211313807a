"""A view of an analysis from literal records and findings."""

from dataclasses import replace

import pytest

from qprobe.analyzers.view import Subtitle, coverage, view
from qprobe.records import Finding, Record, Role, Severity
from qprobe.records.schema import Cause

ABOUT = Subtitle(title="cnn tiny", recipe="int4-tensor", score="auprc")
FOUND = Finding(
    analyzer="outliers", claim="odd", cause=Cause.CHANNEL_OUTLIER, severity=Severity.WARN,
    sites=("head",), roles=(Role.INPUT,), effect=9.0, unit="times", low=9.0, high=9.0, n=8,
    control="", remedy="finer scales", reference="",
)  # fmt: skip


def interval(key, estimate, low, high, site="", probe="dequantization"):
    values = {"": estimate, ".low": low, ".high": high, ".n": 16.0}
    return [Record("", 0, site, "", probe, key + part, value) for part, value in values.items()]


def scored(gap=0.12, low=0.08, high=0.25):
    return [*interval("gap", gap, low, high), *interval("score.high_precision", 0.83, 0.7, 0.9)]


HEAD = interval("recovery", 0.09, 0.06, 0.19, "head")
STEM = interval("recovery", 0.01, -0.02, 0.03, "stem")


def test_the_verdict_names_the_layer_and_its_share():
    seen = view(ABOUT, [*scored(), *STEM, *HEAD], [FOUND])
    assert seen.problem
    assert seen.verdict == (
        "int4-tensor costs 0.120 AUPRC [0.080, 0.250] of 0.830; head alone is 75% of it."
    )
    (row,) = seen.rows  # the stem surely recovers nothing and is not odd
    assert (row.site, row.cause, row.share) == ("head", Cause.CHANNEL_OUTLIER, pytest.approx(0.75))
    assert (row.remedy, row.verified) == ("finer scales", "")


def test_a_layer_that_stands_out_of_many_alone_may_do_so_by_chance():
    many = [Record("", 0, "", "", "dequantization", "layers", 45.0)]
    weak = interval("recovery", 0.03, 0.01, 0.05, "head")
    assert view(ABOUT, [*scored(), *weak], []).verdict.endswith("head alone is 25% of it.")
    seen = view(ABOUT, [*scored(), *weak, *many], [])
    assert seen.verdict.endswith("head alone may be 25% of it.")
    assert (seen.rows[0].cost.low, seen.rows[0].cost.high) == (0.01, 0.05)  # its own limits


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (scored(0.001, -0.002, 0.004), "No problem found: int4-tensor costs 0.001"),
        (scored(-0.01, -0.02, -0.001), "scores 0.010 AUPRC [0.001, 0.020] better than"),
        (scored(), "which layers cost it was not measured"),
        ([*scored(), *STEM], "no single layer surely recovers any of it"),
    ],
)
def test_other_verdicts(records, says):
    assert says in view(ABOUT, records, []).verdict


def test_layers_that_were_only_screened_come_in_its_order_with_what_it_expects():
    """A loss orders and expects nothing; the score's own slope expects a gain of it."""
    screen = [
        Record("", 0, site, "", "dequantization", "screen", value)
        for site, value in (("stem", -0.004), ("head", 0.09))
    ]
    gains = [replace(one, key="screen.gain") for one in screen]
    of_weight = replace(gains[0], role="weight", value=0.7)
    found = [(row.site, row.found) for row in view(ABOUT, [*scored(), *screen], []).rows]
    assert found == [("head", "screened 1 of 2"), ("stem", "screened 2 of 2")]
    records = [*scored(), *screen, *gains, of_weight]
    assert [row.found for row in view(ABOUT, records, []).rows] == [
        "screened 1 of 2, +0.090 expected", "screened 2 of 2, −0.004 expected",
    ]  # fmt: skip


def test_a_cause_that_is_not_known_comes_with_what_it_is_not():
    looked = [
        Record("", 0, "head", "input", "conformance", "n", 8.0),
        Record("", 0, "head", "grad_output", "output_error", "n", 8.0),
        Record("", 0, "stem", "output", "attention_logits", "n", 8.0),
    ]
    (row,) = view(ABOUT, [*scored(), *HEAD, *looked], []).rows
    assert row.cause is Cause.NOT_EXPLAINED
    assert row.ruled_out == ("a wrong quantizer", "outliers")
    (row,) = view(ABOUT, [*scored(), *HEAD], []).rows
    assert row.ruled_out == ()
    (row,) = view(ABOUT, [*scored(), *HEAD, *looked], [FOUND]).rows
    assert row.ruled_out == ("a wrong quantizer",)


def test_a_layer_that_costs_nothing_and_is_only_noted_is_no_row():
    noted = replace(FOUND, sites=("stem",), severity=Severity.INFO)
    records = [*scored(), *STEM, *HEAD]
    assert [row.site for row in view(ABOUT, records, [noted]).rows] == ["head"]
    assert [row.site for row in view(ABOUT, records, [replace(FOUND, sites=("stem",))]).rows] == [
        "head", "stem",
    ]  # fmt: skip


def test_a_model_that_loses_nothing_has_no_layer_that_fails():
    """A layer may cost more than the whole model; then others pay it back."""
    fine = [*scored(0.001, -0.002, 0.004), *HEAD]
    assert view(ABOUT, fine, []).rows == ()
    assert len(view(ABOUT, [*scored(), *HEAD], []).rows) == 1


def test_weights_that_only_note_something_have_no_row_and_a_model_without_a_score_has():
    noted = replace(FOUND, severity=Severity.INFO)
    assert view(replace(ABOUT, recipe=None), [], [noted]).rows == ()
    seen = view(ABOUT, [], [noted])
    assert [row.site for row in seen.rows] == ["head"]
    assert "no warning, 1 note in what was." in seen.verdict


def test_how_much_of_a_model_is_under_the_recipe():
    sizes = [Record("", 0, site, "", "dequantization", "parameters", 8.0) for site in "ab"]
    whole = Record("", 0, "", "", "analysis", "parameters", 64.0)
    assert coverage([*sizes, whole]) == "2 layers with 25% of the parameters"
    assert coverage([sizes[0], whole]) == "1 layer with 12% of the parameters"
    assert coverage(sizes) is None  # a file of an earlier version does not say


def test_a_row_has_the_remedy_in_words_and_no_code():
    code = "keep it in high precision: override(model, {'head': 'bf16'}); or be finer"
    (row,) = view(ABOUT, [*scored(), *HEAD], [replace(FOUND, remedy=code)]).rows
    assert row.remedy == "keep it in high precision; or be finer"


def test_whether_the_screen_can_be_trusted_comes_first():
    for middle, low, trust in (
        (0.3, -0.5, "cannot"),
        (0.7, -0.5, "cannot surely"),
        (0.7, 0.6, "can"),
    ):
        tau = interval("agreement", middle, low, 0.9)
        (said,) = view(ABOUT, [*scored(), *HEAD, *tau], []).caveats
        assert said.startswith(f"--quick {trust} be trusted on this model")
        assert f"Kendall's τ {middle:.2f}" in said


@pytest.mark.parametrize(
    ("gains", "remedy", "verified"),
    [
        ({"x": (0.08, 0.05, 0.1), "bf16": (0.1, 0.06, 0.2)}, "x: +0.080 (80% of bf16)", "verified"),
        ({"x": (0.08, -0.01, 0.1)}, "keep in bf16", "no 4-bit remedy helps surely"),
    ],
)
def test_remedies_that_were_tried(gains, remedy, verified):
    tried = [
        one
        for name, found in gains.items()
        for one in interval(f"recovery.{name}", *found, site="head", probe="verification")
    ]
    (row,) = view(ABOUT, [*scored(), *HEAD, *tried], [FOUND]).rows
    assert (row.remedy, row.verified) == (remedy, verified)


def test_what_the_backward_products_lose_is_told_apart():
    backward = replace(FOUND, roles=(Role.GRAD_OUTPUT,), claim="short", cause=Cause.ROUNDING_BIAS)
    seen = view(ABOUT, [*scored(), *HEAD], [backward])
    assert seen.rows[0].cause is Cause.NOT_EXPLAINED
    assert "In training: short; finer scales." in seen.caveats
    unscored = view(ABOUT, [], [backward])
    assert [row.found for row in unscored.rows] == ["short"]
    assert unscored.caveats == ()  # it is in the list already


def test_short_runs_and_recipes_are_told_in_sentences():
    ran = replace(
        FOUND, analyzer="short_run", severity=Severity.INFO, claim="verified: 8 steps lower it"
    )
    assert "Verified: 8 steps lower it." in view(ABOUT, [*scored(), *HEAD], [ran]).caveats
    about = Subtitle(title="runs", recipe=None, score=None)
    recipe = replace(FOUND, analyzer="recipes", sites=(), roles=(), claim="nvfp4 is worse")
    seen = view(about, [], [recipe])
    assert seen.verdict == (
        "1 of 1 comparison of recipes in runs surely lose score: nvfp4 is worse."
    )
    assert seen.problem
    fine = view(about, [], [replace(recipe, severity=Severity.INFO)])
    assert fine.verdict == "No problem found in 1 comparison of recipes in runs."
    few = replace(
        recipe, severity=Severity.INFO, remedy="train more seeds",
        claim="nvfp4 against bf16, cnn: too few pairs to say (auprc -0.1)",
    )  # fmt: skip
    assert view(about, [], [few]).verdict == (
        "Too few pairs to say in 1 of 1 comparison of recipes in runs: train more seeds."
    )
    assert "nvfp4 against bf16" in view(about, [], [few]).caveats[0]


def test_what_was_not_measured_is_joined_by_its_reason():
    def missed(site, reason):
        return Record("", 0, site, "", "analysis", f"not_measured.{reason}", 1.0)

    seen = view(
        ABOUT,
        [
            missed("observation", "softmax_levels: the model has no such site"),
            missed("observation", "attention_logits: the model has no such site"),
            missed("weights", "left out"), missed("fusion", "left out"), missed("a", "alone: so"),
        ],
        [],
    )  # fmt: skip
    assert seen.not_measured == (
        "softmax_levels, attention_logits: the model has no such site",
        "weights, fusion: left out",
        "a: alone: so",
    )


def test_weights_alone_have_no_score():
    about = Subtitle(title="m.safetensors", recipe=None, score=None)
    judged = [Record("", 0, str(n), "weight", "weights", "judged", 1.0) for n in range(3)]
    assert "No problem found in 3 weights" in view(about, judged, []).verdict
    seen = view(
        about, judged, [replace(FOUND, analyzer="weights", sites=("1",), roles=(Role.WEIGHT,))]
    )
    assert seen.verdict.startswith("1 of 3 weights of m.safetensors would suffer in four bits")


def test_a_score_that_was_not_measured_is_no_clean_bill():
    assert view(ABOUT, [], []).verdict == (
        "What int4-tensor costs cnn tiny was not measured; nothing odd in what was."
    )
    assert "; 1 warning in what was." in view(ABOUT, [], [FOUND]).verdict
