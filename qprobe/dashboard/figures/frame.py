"""What every figure has in common: theme, labels that are data and not markup, empty charts."""

import textwrap
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

import plotly.graph_objects as go

from qprobe.dashboard import theme

#: Pixels of a character at 12 px, of an axis' title, and of the widest margin.
_CHARACTER, _TITLE, _WIDEST = 7, 20, 190
#: As wide as a number at an axis gets.
NUMBER: Final = "-0.00001"


def frame(*traces: Any, dark: bool, **layout: Any) -> go.Figure:
    """A figure in the theme; zoom survives an update of its data.

    Everything is said at once: adding a line or a setting to a figure that is there costs more
    than building it.
    """
    return go.Figure(
        list(traces), layout={"template": theme.template(dark), "uirevision": "keep", **layout}
    )


def roomy(
    x: Mapping[str, Any], y: Mapping[str, Any], labels: Iterable[str] = (NUMBER,)
) -> dict[str, Any]:
    """Both axes with room for the labels at the left and one line below, known beforehand.

    Plotly would draw the chart, measure every label, and draw it again.
    """
    widest = max((len(label) for label in labels), default=0)
    known = {"automargin": False, "ticklabeloverflow": "allow"}
    # Level labels, or plotly would measure each of them to see whether they have to be turned.
    across = {**known, "tickangle": 0, **x}
    return {
        "margin": {"l": min(_WIDEST, _TITLE + _CHARACTER * widest), "b": 48},
        "xaxis": across,
        "yaxis": {**known, **y},
    }


def upright(x: float, **line: Any) -> dict[str, Any]:
    """A line from the bottom of a chart to its top."""
    return {"type": "line", "line": line, "xref": "x", "x0": x, "x1": x,
            "yref": "y domain", "y0": 0, "y1": 1}  # fmt: skip


def level(y: float, **line: Any) -> dict[str, Any]:
    """A line from the left of a chart to its right."""
    return {"type": "line", "line": line, "xref": "x domain", "x0": 0, "x1": 1,
            "yref": "y", "y0": y, "y1": y}  # fmt: skip


def text(name: str) -> str:
    """A name for a chart, where some HTML would be markup."""
    return escape(name, quote=False)


def wrapped(words: str, width: int) -> str:
    """A sentence in lines that a phone has room for.

    >>> wrapped("a sentence that is long", 12)
    'a sentence<br>that is long'
    """
    return "<br>".join(text(line) for line in textwrap.wrap(words, width))


def empty(message: str, *, dark: bool) -> go.Figure:
    """A chart that says why it is empty."""
    told = {
        "text": wrapped(message, 34), "showarrow": False,
        "x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper",
    }  # fmt: skip
    hidden = {"visible": False}
    return frame(dark=dark, xaxis=hidden, yaxis=hidden, annotations=[told])
