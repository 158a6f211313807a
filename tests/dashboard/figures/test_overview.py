from dataclasses import replace

import pytest

from qprobe.dashboard.figures.overview import forest
from qprobe.dashboard.quality import Question, quality
from qprobe.inference.against_baseline import Verdict


@pytest.fixture
def groups(library):
    return quality(library, library.runs(), Question())


def with_verdicts(group, *verdicts):
    """The group, whose recipes beside the baseline have these verdicts."""
    base, *others = group.rows
    rows = [
        replace(row, change=replace(row.change, effect=replace(row.change.effect, verdict=verdict)))
        for row, verdict in zip(others, verdicts, strict=True)
    ]
    return replace(group, rows=(base, *rows))


def test_the_chart_says_of_a_recipe_what_the_table_says(groups):
    (group,) = groups
    for verdicts in (
        (Verdict.WORSE, Verdict.TOO_FEW_PAIRS),
        (Verdict.NO_DIFFERENCE, Verdict.BETTER),
    ):
        changed = with_verdicts(group, *verdicts)
        drawn = forest([changed], Question(), dark=False)
        told = {label: trace.name for trace in drawn.data for label in trace.y}
        assert told == {row.recipe: row.change.effect.verdict for row in changed.rows[1:]}


def test_no_two_verdicts_look_alike(groups):
    looks = set()
    for verdict in Verdict:
        (trace,) = forest([with_verdicts(groups[0], verdict, verdict)], Question(), dark=True).data
        looks.add((trace.marker.symbol, trace.marker.color))
    assert len({symbol for symbol, _ in looks}) == len(Verdict)
