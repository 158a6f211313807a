"""Two runs, side by side: the difference of one measure, layer by layer."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from qprobe.dashboard import theme
from qprobe.dashboard.figures.frame import empty, frame, text
from qprobe.dashboard.figures.layers import labels
from qprobe.dashboard.layer_table import LayerTable, block_and_module
from qprobe.dashboard.measures import Measure
from qprobe.dashboard.numerals import plain


def paired(first: LayerTable, second: LayerTable, measure: Measure) -> list[
    tuple[str, float | None, float | None]
]:  # fmt: skip
    """Every layer of either run with its value in both; None where one has none."""
    sites = list(dict.fromkeys([*first.sites, *second.sites]))

    def value(table: LayerTable, site: str) -> float | None:
        known = site in table.sites and measure in table.measures
        return table.at(site, measure) if known else None

    return [(site, value(first, site), value(second, site)) for site in sites]


def difference(
    pairs: Sequence[tuple[str, float | None, float | None]], measure: Measure, *, dark: bool
) -> go.Figure:
    """First − second, blocks down and modules across; signed so that red or orange is worse.

    Symmetric about zero. A × is a layer that only one of the runs has.
    """
    if not pairs:
        return empty("Neither run has this measure.", dark=dark)
    places = [block_and_module(site) for site, _, _ in pairs]
    blocks = list(dict.fromkeys(block for block, _ in places))
    modules = list(dict.fromkeys(module for _, module in places))
    values = np.full((len(blocks), len(modules)), np.nan)
    told = np.full(values.shape, "no such layer", dtype=object)
    alone = []
    sign = -1.0 if measure.higher_is_better else 1.0
    for (_, one, other), (block, module) in zip(pairs, places, strict=True):
        at = blocks.index(block), modules.index(module)
        told[at] = f"{plain(one)} against {plain(other)}"
        if one is None or other is None:
            alone.append(at)
        elif np.isfinite(one - other):
            values[at] = sign * (one - other)
    down = labels([block or "·" for block in blocks], 40)
    across = labels([module or "·" for module in modules], 40)
    finite = np.abs(values[np.isfinite(values)])
    limit = float(np.percentile(finite, 98)) if finite.size else 1.0
    return frame(
        go.Heatmap(
            z=values.astype(np.float32), x=across, y=down, zmid=0,
            zmin=-(limit or 1.0), zmax=limit or 1.0, colorscale=theme.diverging(dark),
            xgap=1, ygap=1, customdata=told,
            colorbar={"title": {"text": f"{text(measure.key)}<br>up is worse", "side": "right"},
                      "thickness": 12},
            hovertemplate="<b>%{y} %{x}</b><br>%{customdata}<extra></extra>",
        ),
        go.Scatter(
            x=[across[column] for _, column in alone], y=[down[row] for row, _ in alone],
            mode="markers", name="only one run has it",
            marker={"symbol": "x", "size": 9, "color": theme.ink(dark)},
            hovertemplate="<b>%{y} %{x}</b><br>only in one run<extra></extra>",
        ),
        dark=dark,
        plot_bgcolor=theme.absent(dark),
        showlegend=False,
        xaxis={"side": "top", "showgrid": False},
        yaxis={"autorange": "reversed", "showgrid": False},
    )  # fmt: skip


def against(
    pairs: Sequence[tuple[str, float | None, float | None]], names: tuple[str, str], *, dark: bool
) -> go.Figure:
    """One point a layer: its value in both runs on the same axes; on the line they are equal."""
    both = [
        (site, one, other)
        for site, one, other in pairs
        if one is not None and other is not None and np.isfinite(one) and np.isfinite(other)
    ]
    if not both:
        return empty("The runs have no layer in common.", dark=dark)
    values = np.array([(other, one) for _, one, other in both])
    ends = [float(values.min()), float(values.max())]
    return frame(
        go.Scatter(
            x=ends, y=ends, mode="lines", hoverinfo="skip",
            line={"color": theme.ink(dark), "width": 1, "dash": "dot"},
        ),
        go.Scatter(
            x=values[:, 0], y=values[:, 1], mode="markers",
            customdata=labels([site for site, _, _ in both]),
            marker={"color": theme.lines(dark)[0], "size": 8, "opacity": 0.75},
            hovertemplate="<b>%{customdata}</b><br>%{y:.4g} against %{x:.4g}<extra></extra>",
        ),
        dark=dark,
        showlegend=False,
        xaxis={"title": text(names[1])},
        yaxis={"title": text(names[0])},
    )  # fmt: skip
