"""One map of attention before and under a recipe, and the difference."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from qprobe.dashboard import theme
from qprobe.dashboard.figures.frame import empty
from qprobe.dashboard.sampled_maps import WORDS, MapPair

#: Where the colour bars stand: the two maps share one, the difference has its own.
_BARS = (0.635, 1.0)


def pair(found: MapPair | None, *, dark: bool) -> go.Figure:
    """Both maps on one colour scale, and quantized minus reference about zero; hidden is grey."""
    if found is None:
        return empty("No map was kept of this attention.", dark=dark)
    before, after = (
        np.where(np.isfinite(one), one, np.nan) for one in (found.reference, found.quantized)
    )
    change = after - before
    figure = make_subplots(
        cols=3, shared_yaxes=True, horizontal_spacing=0.02, column_widths=[0.3, 0.3, 0.3],
        subplot_titles=("high precision", "quantized", "quantized − high precision"),
    )  # fmt: skip
    for column, (values, axis) in enumerate(
        ((before, "coloraxis"), (after, "coloraxis"), (change, "coloraxis2")), 1
    ):
        figure.add_heatmap(
            z=values.astype(np.float32), coloraxis=axis, row=1, col=column,
            hovertemplate="query %{y}, key %{x}<br>%{z:.4g}<extra></extra>", hoverongaps=False,
        )  # fmt: skip
    _dress(figure, found, float(np.nanmax(np.abs(change), initial=0.0)), dark)
    return figure


def _dress(figure: go.Figure, found: MapPair, largest: float, dark: bool) -> None:
    unit = "nats" if found.role == "attn_logits" else "probability"
    bar = {"thickness": 10, "len": 0.95, "xanchor": "left"}
    largest = largest or 1.0
    figure.update_layout(
        template=theme.template(dark),
        uirevision="keep",
        plot_bgcolor=theme.absent(dark),
        margin={"t": 36},
        coloraxis={
            "colorscale": theme.SEQUENTIAL,
            "colorbar": {**bar, "x": _BARS[0], "title": {"text": unit, "side": "right"}},
        },
        coloraxis2={
            "colorscale": theme.diverging(dark), "cmin": -largest, "cmax": largest, "cmid": 0,
            "colorbar": {**bar, "x": _BARS[1], "title": {"text": f"change, {unit}",
                                                         "side": "right"}},
        },
    )  # fmt: skip
    for column, part in enumerate(((0.0, 0.3), (0.325, 0.625), (0.7, 1.0)), 1):
        figure.update_xaxes(title="key", showgrid=False, zeroline=False, domain=part, col=column)
        figure.layout.annotations[column - 1].x = sum(part) / 2
    figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
    figure.update_yaxes(title="query", col=1)
    figure.update_annotations(font_size=12)


def caption(found: MapPair | None) -> str:
    """Which map it is."""
    if found is None:
        return ""
    queries, keys = found.reference.shape
    return (
        f"{WORDS.get(found.role, found.role)} of {found.head} of one sample, step {found.step}, "
        f"{queries} × {keys} tokens; grey is hidden by the mask"
    )
