import json
import math
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from qprobe.analyzers.rendering import as_json, render
from qprobe.analyzers.view import Row, View
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


def test_without_a_problem_only_what_warns_is_shown():
    quiet = replace(SEEN, problem=False, rows=(replace(ROW, severity=Severity.INFO),))
    assert "head" not in printed(quiet)


def test_json_holds_everything_and_no_number_that_is_none():
    odd = replace(SEEN, rows=(replace(ROW, share=math.inf),))
    whole = json.loads(as_json(odd, [], {"file": Path("a.qprobe")}))
    assert whole["rows"][0]["share"] == "inf"
    assert whole["rows"][0]["cost"]["low"] == 0.06
    assert whole["rows"][0]["ruled_out"] == []
    assert (whole["file"], whole["findings"]) == ("a.qprobe", [])
