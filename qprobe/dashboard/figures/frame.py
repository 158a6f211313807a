"""What every figure has in common: theme, labels that are data and not markup, empty charts."""

from html import escape
from typing import Any

import plotly.graph_objects as go

from qprobe.dashboard import theme


def frame(*traces: Any, dark: bool, **layout: Any) -> go.Figure:
    """A figure in the theme; zoom survives an update of its data."""
    figure = go.Figure(list(traces))
    figure.update_layout(template=theme.template(dark), uirevision="keep")
    figure.update_layout(**layout)
    return figure


def text(name: str) -> str:
    """A name for a chart, where some HTML would be markup."""
    return escape(name, quote=False)


def empty(message: str, *, dark: bool) -> go.Figure:
    """A chart that says why it is empty."""
    figure = frame(dark=dark)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(
        text=text(message), showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper"
    )
    return figure
