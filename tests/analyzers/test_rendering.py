import json
import math
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from qprobe.analyzers.rendering import as_json, render
from qprobe.analyzers.view import Row, View
from qprobe.analyzers.weights.overview import Kept
from qprobe.inference import Interval
from qprobe.records import Severity
from qprobe.records.schema import Cause

COST = Interval(estimate=0.09, low=0.06, high=0.19, level=0.95, n=16, method="")
ROW = Row(
    site="head", severity=Severity.CRITICAL, cost=COST, share=0.76, cause=Cause.NOT_EXPLAINED,
    ruled_out=(), found="", remedy="keep in bf16", verified="",
)  # fmt: skip
SEEN = View(problem=True, verdict="It fails.", rows=(ROW,), caveats=(), not_measured=("x: why",))


def printed(seen, file="a b.qprobe", width=100):
    console = Console(file=StringIO(), width=width, highlight=False)
    console.print(render(seen, "title", Path(file)), crop=False)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, " - "),
        ({"ruled_out": ("a wrong quantizer", "outliers")}, "not outliers"),
        ({"cause": Cause.CHANNEL_OUTLIER}, "channel outlier"),
        ({"remedy": ""}, " - "),
    ],
)
def test_a_row_has_a_cause_or_what_it_is_not(change, says):
    said = printed(replace(SEEN, rows=(replace(ROW, **change),)))
    assert says in said
    assert "0.090 [0.060, 0.190] 76%" in said


def test_the_next_command_can_be_copied_whatever_the_width():
    said = printed(SEEN, width=40).splitlines()
    assert "Next: qprobe plan 'a b.qprobe' --target 99%" in said
    assert "Next: the same command with --verify --overwrite tries the remedies." in said
    tried = printed(replace(SEEN, rows=(replace(ROW, verified="verified"),)))
    assert "--verify" not in tried
    assert "Next" not in printed(replace(SEEN, problem=False))


def test_five_layers_are_shown_and_the_others_counted():
    rows = tuple(replace(ROW, site=f"layer{n}") for n in range(7))
    said = printed(replace(SEEN, rows=rows))
    assert "layer4" in said
    assert "layer5" not in said
    assert "2 more are in a b.qprobe." in said


def test_layers_without_a_cost_are_sentences_and_no_text_is_markup():
    row = replace(ROW, site="[bold]x[/bold]", cost=None, share=None, found="7 of 8 are NaN")
    said = printed(replace(SEEN, rows=(row,))).splitlines()
    assert "[bold]x[/bold]" in said
    assert "  7 of 8 are NaN" in said
    assert "  keep in bf16" in said  # no dash where nothing was asked for a cause


def test_a_layer_that_its_finding_names_is_not_named_twice():
    row = replace(ROW, site="model.fc", cost=None, share=None, found="7 of model.fc are NaN")
    said = printed(replace(SEEN, rows=(row,)))
    assert said.count("model.fc") == 1
    assert "\n7 of model.fc are NaN\n" in said


def test_layers_that_were_only_screened_have_no_empty_columns():
    row = replace(ROW, cost=None, share=None, found="screened 1 of 8", remedy="")
    said = printed(replace(SEEN, rows=(row,)))
    assert "remedy" not in said
    assert "cause" not in said
    assert "cause" in printed(replace(SEEN, rows=(row, ROW)))


def test_what_was_not_measured_is_one_sentence():
    said = printed(replace(SEEN, not_measured=("x, y: why: so", "z: else")))
    assert "Not measured: x, y (why: so); z (else)." in said


def test_what_a_person_should_know_of_the_inputs_is_a_sentence_of_its_own():
    shown = Console(file=StringIO(), width=100)
    with shown.capture() as got:
        shown.print(render(SEEN, "cnn", None, ["best.pt holds no optimizer state"]))
    first, *lines = got.get().splitlines()
    assert first.strip() == "cnn"
    assert "Note: best.pt holds no optimizer state." in [line.strip() for line in lines]


def test_json_holds_everything_and_no_number_that_is_none():
    odd = replace(SEEN, rows=(replace(ROW, share=math.inf),))
    whole = json.loads(as_json(odd, [], {"file": Path("a.qprobe")}))
    assert whole["rows"][0]["share"] == "inf"
    assert whole["rows"][0]["cost"]["low"] == 0.06
    assert whole["rows"][0]["ruled_out"] == []
    assert (whole["file"], whole["findings"]) == ("a.qprobe", [])


def test_what_formats_keep_names_the_layer_that_is_far_below_the_others():
    both = (
        Kept(format="NVFP4", median_db=20.4, lowest_db=20.1, site="first", n=9),
        Kept(format="INT4, one scale", median_db=13.2, lowest_db=5.4, site="o_proj", n=9),
    )
    said = printed(replace(SEEN, problem=False, rows=(), kept=both))
    assert re.search(r"^NVFP4 +20\.4 dB +20\.1 dB +-$", said, re.MULTILINE)
    assert re.search(r"^INT4, one scale +13\.2 dB +5\.4 dB +o_proj$", said, re.MULTILINE)
    assert json.loads(as_json(replace(SEEN, kept=both), [], {}))["kept"][1]["site"] == "o_proj"
