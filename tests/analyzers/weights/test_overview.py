"""What an analysis of weights alone says at a glance, from literal records."""

import pytest

from qprobe.analyzers.weights import overview
from qprobe.records import Finding, Record, Role, Severity
from qprobe.records.schema import Cause


def record(site, key, value=1.0):
    return Record("", 0, site, "weight" if site else "", "weights", key, value)


def warning(site, unit="dB", severity=Severity.WARN):
    return Finding(
        analyzer="weights", claim="odd", cause=Cause.NOT_EXPLAINED, severity=severity,
        sites=(site,), roles=(Role.WEIGHT,), effect=1.0, unit=unit, low=1.0, high=1.0, n=8,
        control="", remedy="", reference="",
    )  # fmt: skip


JUDGED = [record(site, "judged") for site in "abc"]


@pytest.mark.parametrize(
    ("more", "found", "says"),
    [
        ([], [], "No problem found in 3 weights of m; no data, no score."),
        ([], [warning("a", severity=Severity.INFO)], "No problem found in 3 weights of m; "),
        ([], [warning("a")], "1 of 3 weights of m would suffer in four bits; what it costs needs "),
        ([record("a", "packed")], [warning("a")], "1 of 3 weights of m is packed badly; "),
        (
            [record("a", "packed")],
            [warning("a"), warning("b"), warning("c", "share of elements")],
            "3 of 3 weights of m hold NaN or infinity or are packed badly or would suffer in four ",
        ),
        (
            [record("d", "judged", 0.0), record("d", "unread", 64.0)],
            [],
            "1 of 4 weights of m is packed in a way that is not read; no problem found in the ",
        ),
        # A bias is not judged, and still broken.
        ([], [warning("norm", "share of elements")], "1 of 4 weights of m holds NaN or infinity; "),
    ],
)
def test_verdicts(more, found, says):
    assert overview.verdict("m", [*JUDGED, *more], found).startswith(says)


def test_weights_that_no_format_can_harm_are_named_and_no_clean_bill():
    zero = [record("a", "judged"), record("a", "absmax", 0.0), record("a", "std", 0.0)]
    equal = [record("b", "judged"), record("b", "absmax", 0.5), record("b", "std", 0.0)]
    small = [record("c", "judged"), record("c", "absmax", 1e-40), record("c", "std", 1e-41)]
    broken = [record("d", "judged"), record("d", "absmax", 0.0), record("d", "nan", 3.0)]
    fine = [record("e", "judged"), record("e", "absmax", 1.0), record("e", "nvfp4.sqnr_db", 20.0)]
    (said,) = overview.mute([*zero, *equal, *small, *broken, *fine])
    assert said == (
        "No format was compared at a (all zero); b (all elements equal); c (too small for a scale)."
    )
    assert list(overview.mute(fine)) == []
    assert overview.verdict("m", [*zero, *equal], []) == (
        "m has nothing to lose in 2 weights: no format was compared."
    )
    assert overview.verdict("m", [*zero, *fine], []).startswith("No problem found in 2 weights")


RATIOS = [
    record(site, f"{name}.sqnr_db", value)
    for site, nvfp4, int4 in (("a", 20.0, 12.0), ("b", 21.0, 4.0), ("c", 22.0, 14.0))
    for name, value in (("nvfp4", nvfp4), ("int4_tensor", int4))
]


def test_what_formats_keep_has_the_median_and_the_lowest_with_its_layer():
    aside = [record("embed", "judged", 0.0), record("embed", "nvfp4.sqnr_db", -9.0)]
    first, second = overview.kept([*JUDGED, *RATIOS, *aside])
    assert (first.format, first.median_db, first.lowest_db, first.site) == (
        "NVFP4",
        21.0,
        20.0,
        "a",
    )
    assert (second.format, second.median_db, second.lowest_db, second.site, second.n) == (
        "INT4, one scale", 12.0, 4.0, "b", 3,
    )  # fmt: skip


def test_of_weights_in_four_bits_the_few_others_say_nothing_on_formats():
    assert overview.kept([*JUDGED, *RATIOS, record("a", "packed")]) == ()


@pytest.mark.parametrize(
    ("elements", "says"),
    [
        ({"product": 995.0, "other": 5.0}, []),
        ({"product": 0.0}, []),
        (
            {"product": 140.0, "stack": 860.0, "other": 1.0},
            ["Judged are 14% of all elements; left out: stacks of experts 86%."],
        ),
    ],
)
def test_what_was_left_out_is_told_where_it_is_much(elements, says):
    records = [record("", f"elements_{part}", value) for part, value in elements.items()]
    assert list(overview.left_out(records)) == says
