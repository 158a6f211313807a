"""One number for each layer, with its interval, the largest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from qprobe.dashboard import theme
from qprobe.dashboard.figures.frame import empty, frame, level, wrapped
from qprobe.dashboard.figures.layers import labels

#: More bars than this cannot be read.
MOST = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A value with the limits that it came with; None where there are none."""

    site: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Growing:
    """A set of layers in high precision after its latest member, and what it brings back."""

    site: str
    value: float
    low: float | None = None
    high: float | None = None
    #: What its members bring back alone, added up.
    additive: float | None = None


def bars(
    found: Sequence[Bar],
    unit: str,
    *,
    dark: bool,
    chosen: Sequence[str] = (),
    whole: float | None = None,
) -> go.Figure:
    """The largest 40; chosen layers are hatched, and what may be zero is pale.

    With a ``whole`` each layer says which share of it it is.
    """
    finite = [bar for bar in found if np.isfinite(bar.value)]
    if not finite:
        return empty("No layer has a value.", dark=dark)
    ranked = sorted(finite, key=lambda bar: -bar.value)[:MOST]
    sure = [bar.low is None or bar.low > 0 for bar in ranked]
    limits = [
        (0.0, 0.0) if bar.low is None or bar.high is None else (bar.high - bar.value,
                                                               bar.value - bar.low)
        for bar in ranked
    ]  # fmt: skip
    names = labels([bar.site for bar in ranked], 44)
    if whole:
        names = [
            f"{name}  {bar.value / whole:.0%}" for name, bar in zip(names, ranked, strict=True)
        ]
    left = len(finite) - len(ranked)
    more = f" (the largest {len(ranked)} of {len(finite)})" if left else ""
    return frame(
        go.Bar(
            y=names,
            x=np.array([bar.value for bar in ranked]),
            orientation="h",
            marker={
                "color": theme.lines(dark)[0],
                "opacity": [0.9 if one else 0.4 for one in sure],
                "pattern": {"shape": ["/" if bar.site in chosen else "" for bar in ranked]},
            },
            error_x={
                "type": "data", "symmetric": False, "thickness": 1.5, "width": 3,
                "color": theme.ink(dark),
                "array": [up for up, _ in limits], "arrayminus": [down for _, down in limits],
            },
            hovertemplate="<b>%{y}</b><br>%{x:.4g}<extra></extra>",
        ),
        dark=dark,
        xaxis={"title": wrapped(unit + more, 30), "zeroline": True},
        yaxis={"autorange": "reversed", "showgrid": False},
    )  # fmt: skip


def height(count: int) -> int:
    """Pixels that so many bars need."""
    return 110 + 22 * min(count, MOST)


def curve(found: Sequence[Growing], unit: str, *, dark: bool, whole: float | None) -> go.Figure:
    """What growing sets of layers bring back, beside the sum of what their members do alone."""
    if not found:
        return empty("Layers were not given back one after another.", dark=dark)
    names = labels([one.site for one in found])
    x = np.arange(1, len(found) + 1)
    low = [one.value if one.low is None else one.low for one in found]
    high = [one.value if one.high is None else one.high for one in found]
    values = np.array([one.value for one in found])
    traces = [go.Scatter(
        x=x, y=values, name="together", mode="lines+markers",
        line={"color": theme.lines(dark)[0], "width": 2},
        error_y={
            "type": "data", "symmetric": False, "thickness": 1.5, "width": 4,
            "array": np.array(high) - values, "arrayminus": values - np.array(low),
        },
        customdata=names,
        hovertemplate="with %{customdata}<br>%{y:.4g}<extra>together</extra>",
    )]  # fmt: skip
    if all(one.additive is not None for one in found):
        traces.append(go.Scatter(
            x=x, y=np.array([one.additive for one in found], dtype=np.float64),
            name="alone, added up", mode="lines+markers",
            line={"color": theme.lines(dark)[1], "width": 2, "dash": "dot"},
            hovertemplate="%{y:.4g}<extra>alone, added up</extra>",
        ))  # fmt: skip
    across = {
        "title": "layers in high precision", "range": [0.5, len(names) + 0.5],
        "tickvals": x, "ticktext": [f"+ {name}" for name in names],
        "tickangle": -60 if len(names) > 3 else 0,
    }  # fmt: skip
    return frame(
        *traces, dark=dark, xaxis=across, yaxis={"title": unit, "rangemode": "tozero"},
        **(_whole(whole, dark) if whole else {}),
    )  # fmt: skip


def _whole(loss: float, dark: bool) -> dict[str, Any]:
    """A line at what all layers cost together."""
    told = {
        "text": "the whole loss", "showarrow": False, "xref": "x domain", "x": 0,
        "xanchor": "left", "yref": "y", "y": loss, "yanchor": "bottom",
    }  # fmt: skip
    line = level(loss, color=theme.ink(dark), dash="dash", width=1)
    return {"shapes": [line], "annotations": [told]}


def spectrum(points: np.ndarray, *, dark: bool) -> go.Figure:
    """A density ``[eigenvalue and density, points]``: logarithmic, for a few large eigenvalues
    stand far from the many small ones and weigh next to nothing."""
    top = float(np.log10(max(points[1].max(), 1e-300)))
    line = go.Scatter(
        x=points[0].astype(np.float64), y=points[1].astype(np.float64), mode="lines",
        line={"color": theme.lines(dark)[0]},
        hovertemplate="eigenvalue %{x:.4g}<br>density %{y:.4g}<extra></extra>",
    )  # fmt: skip
    return frame(
        line, dark=dark, xaxis={"title": "eigenvalue of the Hessian"},
        yaxis={"title": "density", "type": "log", "range": [top - 5, top + 0.3], "dtick": 1},
    )  # fmt: skip
