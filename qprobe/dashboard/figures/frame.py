"""What every figure has in common: theme, labels that are data and not markup, empty charts."""

import textwrap
from collections.abc import Iterable
from html import escape
from typing import Any

import plotly.graph_objects as go

from qprobe.dashboard import theme

#: Pixels of a character at 12 px, of an axis' title, and of the widest margin.
_CHARACTER, _TITLE, _WIDEST = 7, 20, 190


def frame(*traces: Any, dark: bool, **layout: Any) -> go.Figure:
    """A figure in the theme; zoom survives an update of its data."""
    figure = go.Figure(list(traces))
    figure.update_layout(template=theme.template(dark), uirevision="keep")
    figure.update_layout(**layout)
    return figure


def margins(figure: go.Figure, labels: Iterable[str] = ("-0.00001",)) -> None:
    """Room for the labels at the left and one line below, known beforehand.

    Plotly would draw the chart, measure every label, and draw it again.
    """
    widest = max((len(label) for label in labels), default=0)
    figure.update_layout(margin={"l": min(_WIDEST, _TITLE + _CHARACTER * widest), "b": 48})
    figure.update_xaxes(automargin=False, ticklabeloverflow="allow")
    figure.update_yaxes(automargin=False, ticklabeloverflow="allow")


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
    figure = frame(dark=dark)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(
        text=wrapped(message, 34), showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper"
    )
    return figure
