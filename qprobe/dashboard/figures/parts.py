"""Heads of attentions and branches of fusions."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from qprobe.dashboard import theme
from qprobe.dashboard.figures.frame import empty, frame, text
from qprobe.dashboard.figures.layers import labels
from qprobe.dashboard.measures import Measure
from qprobe.dashboard.parts import Part, grid

#: Cells of a map that is small enough for its values to be read.
_TOLD = 200


def heads(found: Sequence[Part], key: str, *, dark: bool) -> go.Figure:
    """The last value of one measure, attentions down and heads across: bright is worst."""
    sites, numbers, values = grid(found, key)
    if not sites:
        return empty("No head has this measure.", dark=dark)
    better = Measure("", "", key).higher_is_better
    cells = go.Heatmap(
        z=values.astype(np.float32),
        x=[f"head {number}" for number in numbers],
        y=labels(sites, 40),
        colorscale=theme.SEQUENTIAL,
        reversescale=better,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        colorbar={
            "title": {"text": f"{text(key)}<br>{'low' if better else 'high'} is worst",
                      "side": "right"},
            "thickness": 12,
        },
        hovertemplate="<b>%{y}</b>, %{x}<br>%{z:.5g}<extra></extra>",
    )  # fmt: skip
    return frame(
        cells,
        *([_told(cells, brightest_low=better)] if values.size <= _TOLD else []),
        dark=dark,
        plot_bgcolor=theme.absent(dark),
        xaxis={"side": "top", "showgrid": False},
        yaxis={"autorange": "reversed", "showgrid": False},
    )


def _told(cells: go.Heatmap, *, brightest_low: bool) -> go.Scatter:
    """Every value on its cell; plotly's own labels are grey on the middle of the scale."""
    rows, columns = np.nonzero(np.isfinite(cells.z))
    values = cells.z[rows, columns]
    low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
    shares = (values - low) / (high - low) if high > low else np.full(values.shape, 0.5)
    shares = 1 - shares if brightest_low else shares
    return go.Scatter(
        x=[cells.x[column] for column in columns.tolist()],
        y=[cells.y[row] for row in rows.tolist()],
        mode="text",
        text=[f"{value:.3g}" for value in values.tolist()],
        textfont={"color": [theme.ink_on(share) for share in shares.tolist()]},
        hoverinfo="skip",
        showlegend=False,
    )


def lines(found: Sequence[Part], word: str, key: str, *, dark: bool, others: Sequence[Part] = ()
          ) -> go.Figure:  # fmt: skip
    """One measure of every part of one site over the steps; the baseline's are dotted."""
    kept = [part for part in found if part.key == key]
    if not kept:
        return empty("Nothing was recorded here.", dark=dark)
    traces = []
    for extra, group in (("", kept), (", baseline", [one for one in others if one.key == key])):
        for part in group:
            look = theme.line(part.number, dark)
            traces.append(go.Scatter(
                x=part.series.steps,
                y=part.series.values,
                name=f"{word} {part.number}{extra}",
                # Heads take turns: one that was looked at once is a point.
                mode="lines" if len(part.series) > 60 else "lines+markers",
                marker={"size": 5},
                line={"color": look["color"], "width": 2, "dash": "dot" if extra else look["dash"]},
                hovertemplate="%{y:.4g}",
            ))  # fmt: skip
    shown = np.concatenate([part.series.values for part in kept])
    finite = shown[np.isfinite(shown)]
    # Decades, where there is one: between 0.9 and 1 a logarithm has a tick for every hundredth.
    spread = "energy" in key and finite.size > 0 and 0 < 10 * finite.min() <= finite.max()
    upwards = {"title": text(key.replace("_", " ")), "type": "log" if spread else "linear"}
    return frame(*traces, dark=dark, hovermode="x unified", xaxis={"title": "step"}, yaxis=upwards)
