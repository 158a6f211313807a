"""Recipes against the baseline: a dot, its interval, and zero."""

from collections.abc import Sequence

import plotly.graph_objects as go

from qprobe.dashboard import theme
from qprobe.dashboard.figures.frame import empty, frame, text, wrapped
from qprobe.dashboard.numerals import interval, short
from qprobe.dashboard.quality import Group, Question
from qprobe.inference.against_baseline import Verdict


def forest(groups: Sequence[Group], asked: Question, *, dark: bool) -> go.Figure:
    """One line a recipe: difference from the baseline with its 95 % interval.

    Colour and symbol say the verdict, in the words of the table: an interval over the patients of
    one pair of runs, or one that is not corrected for several recipes, is none by itself.
    """
    rows = [
        (group, row, row.change)
        for group in reversed(groups)
        for row in reversed(group.rows)
        if row.change is not None
    ]
    if not rows:
        return empty(f"No finished run has a partner under {asked.base}.", dark=dark)
    several = len(groups) > 1
    traces = []
    for meaning in Verdict:
        shown = [(g, r, c) for g, r, c in rows if c.effect.verdict is meaning]
        if not shown:
            continue
        colour, symbol = _look(meaning, dark)
        limits = [(c.difference.low, c.difference.high) for _, _, c in shown]
        middle = [c.difference.estimate for _, _, c in shown]
        traces.append(go.Scatter(
            x=middle,
            y=[_label(g.title, r.recipe, several) for g, r, _ in shown],
            mode="markers",
            name=str(meaning),
            marker={"color": colour, "symbol": symbol, "size": 11},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [_apart(h, m) for (_, h), m in zip(limits, middle, strict=True)],
                "arrayminus": [_apart(m, low) for (low, _), m in zip(limits, middle, strict=True)],
                "thickness": 2,
                "width": 5,
            },
            customdata=[
                [interval(c.difference, sign=True), c.over, text(g.title)] for g, _, c in shown
            ],
            hovertemplate="<b>%{y}</b><br>%{customdata[0]}<br>%{customdata[1]}<br>%{customdata[2]}"
            "<extra></extra>",
        ))  # fmt: skip
    order = [_label(g.title, r.recipe, several) for g, r, _ in rows]
    across = {
        "title": wrapped(f"{asked.score} minus {asked.base}, 95 % interval", 18),
        "zeroline": True, "zerolinewidth": 2, "zerolinecolor": theme.ink(dark),
        "exponentformat": "none",
    }  # fmt: skip
    down = {"categoryorder": "array", "categoryarray": order, "gridcolor": "rgba(0,0,0,0)"}
    return frame(*traces, dark=dark, xaxis=across, yaxis=down)


def height(groups: Sequence[Group]) -> int:
    """Pixels that the lines need."""
    return 120 + 30 * sum(row.change is not None for group in groups for row in group.rows)


def _label(title: str, recipe: str, several: bool) -> str:
    return text(f"{recipe} · {short(title, 28)}" if several else recipe)


def _apart(high: float | None, low: float | None) -> float:
    return 0.0 if high is None or low is None else high - low


def _look(meaning: Verdict, dark: bool) -> tuple[str, str]:
    colours = theme.lines(dark)
    return {
        Verdict.WORSE: (colours[1], "triangle-down"),
        Verdict.BETTER: (colours[0], "triangle-up"),
        Verdict.NO_DIFFERENCE: ("#868e96", "circle"),
        Verdict.TOO_FEW_PAIRS: ("#868e96", "circle-open"),
    }[meaning]
