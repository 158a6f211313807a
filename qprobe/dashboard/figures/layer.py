"""One layer: its values on the 4-bit grid, how peaked they are, what its products lose."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from qprobe.dashboard import theme
from qprobe.dashboard.figures.frame import (
    NUMBER,
    empty,
    frame,
    level,
    roomy,
    text,
    upright,
    wrapped,
)
from qprobe.dashboard.layer_detail import FIRST, OCTAVES, Magnitudes
from qprobe.dashboard.numerals import plain
from qprobe.records import Column, Series

#: Magnitudes that E2M1 has.
E2M1 = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_QUANTILES = ("median", "p90", "p99", "max")
#: In full: between 10 and 100 plotly would write a 2 for 20.
_DECADES = tuple(digit * 10.0**power for power in range(-1, 6) for digit in (1, 2, 3, 5))
_AXES = (("channel_kurtosis", "per channel"), ("token_kurtosis", "per token or voxel"))
#: What :func:`kurtosis` draws.
KURTOSES = frozenset(f"{stem}_{end}" for stem, _ in _AXES for end in _QUANTILES)


def histogram(found: Magnitudes, other: Magnitudes | None, *, dark: bool) -> go.Figure:
    """Shares of |x| by octave, with the E2M1 grid that one scale for the whole tensor would give.

    The scale puts the largest octave at 6. What lies left of the first line rounds to zero.
    """
    total = int(found.octaves.sum())
    largest = found.largest
    if largest is None:
        return empty("Every value is zero, NaN or infinite.", dark=dark)
    x = np.arange(FIRST, FIRST + OCTAVES)
    filled = np.flatnonzero(found.octaves)
    low, high = x[filled[0]] - 1, x[filled[-1]] + 2
    apart = 2 if high - low < 16 else 4
    ticks = [int(tick) for tick in x if low <= tick <= high and tick % apart == 0]
    traces: list[Any] = [
        go.Bar(
            x=x + 0.5,
            y=(found.octaves / total).astype(np.float32),
            name="this run",
            marker={"color": theme.lines(dark)[0], "opacity": 0.85},
            customdata=found.octaves,
            hovertemplate="2^%{x:.1f}<br>%{y:.2%} (%{customdata:,})<extra></extra>",
        )
    ]
    if other is not None and other.octaves.sum():
        traces.append(go.Scatter(
            x=x + 0.5,
            y=(other.octaves / other.octaves.sum()).astype(np.float32),
            name="baseline",
            mode="lines",
            line={"shape": "hvh", "color": theme.lines(dark)[1], "width": 2},
            hovertemplate="%{y:.2%}<extra>baseline</extra>",
        ))  # fmt: skip
    across = {
        "title": "|x|; lines: E2M1 under one scale", "range": [low, high],
        "tickvals": ticks, "ticktext": [f"2<sup>{tick}</sup>" for tick in ticks], "showgrid": False,
    }  # fmt: skip
    return frame(
        *traces, dark=dark, bargap=0.08, barmode="overlay",
        **_grid(largest, float(low), dark),
        **roomy(across, {"title": "share of values", "tickformat": ".0%"}, ["100%"]),
    )  # fmt: skip


def _grid(largest: float, left: float, dark: bool) -> dict[str, Any]:
    scale = largest / E2M1[-1]
    lines = [
        upright(float(np.log2(value * scale)), color=theme.ink(dark), width=1, dash="dot")
        for value in E2M1
    ]
    # Half of the smallest value is where rounding to zero begins.
    zone = {
        "type": "rect", "x0": left, "x1": float(np.log2(E2M1[0] / 2 * scale)),
        "xref": "x", "y0": 0, "y1": 1, "yref": "y domain", "line": {"width": 0},
        "fillcolor": theme.lines(dark)[1], "opacity": 0.12, "layer": "below",
    }  # fmt: skip
    told = {
        "text": "rounds to zero", "showarrow": False, "x": left, "xref": "x", "xanchor": "left",
        "y": 1, "yref": "y domain", "yanchor": "top",
    }  # fmt: skip
    return {"shapes": [*lines, zone], "annotations": [told]}


def kurtosis(values: Mapping[str, float], *, dark: bool) -> go.Figure:
    """Kurtosis over channels and over tokens or voxels; a normal distribution has 3."""
    traces = []
    for number, (stem, name) in enumerate(_AXES):
        known = [(end, values[f"{stem}_{end}"]) for end in _QUANTILES if f"{stem}_{end}" in values]
        if known:
            traces.append(go.Bar(
                x=[end for end, _ in known],
                y=np.array([value for _, value in known], dtype=np.float64),
                name=name,
                marker={"color": theme.lines(dark)[number]},
                hovertemplate="%{x} %{y:.4g}<extra>" + name + "</extra>",
            ))  # fmt: skip
    if not traces:
        return empty("No kurtosis was measured here.", dark=dark)
    upwards = {
        "title": "kurtosis (dashed: normal, 3)", "type": "log",
        "tickvals": _DECADES, "ticktext": [f"{tick:,g}" for tick in _DECADES],
    }  # fmt: skip
    normal = level(3, color=theme.ink(dark), dash="dash", width=1)
    return frame(*traces, dark=dark, barmode="group", shapes=[normal], **roomy({}, upwards))


def operands(
    products: Mapping[str, float], tensors: Mapping[str, float], *, dark: bool
) -> go.Figure:
    """Signal to quantization noise: of operands as the recipe takes them (``fprop.x``), and of
    tensors in four bits along their channels (``nvfp4 input``), which knows no recipe."""
    if not products and not tensors:
        return empty("No quantization error was measured here.", dark=dark)
    traces = []
    for number, (name, values) in enumerate(
        (("as the recipe takes it", products), ("in four bits, along channels", tensors))
    ):
        if values:
            known = np.array(list(values.values()), dtype=np.float64)
            traces.append(go.Bar(
                x=np.where(np.isfinite(known), known, np.nan),
                y=[text(one) for one in values],
                orientation="h",
                name=name,
                marker={"color": theme.lines(dark)[number], "opacity": 0.9 if not number else 0.5},
                text=[f"{value:.1f}" if np.isfinite(value) else plain(value) for value in known],
                textposition="outside",
                hovertemplate="%{y}<br>%{x:.2f} dB<extra>" + name + "</extra>",
            ))  # fmt: skip
    known = np.array([*products.values(), *tensors.values()], dtype=np.float64)
    longest = float(np.max(known, initial=0.0, where=np.isfinite(known)))
    # Room for the number after the longest bar.
    room = {"range": [0, 1.2 * longest]} if longest and np.nanmin(known) >= 0 else {}
    across = {"title": "SQNR in dB, more is better", "rangemode": "tozero", **room}
    down = {"autorange": "reversed", "showgrid": False}
    return frame(
        *traces, dark=dark, bargap=0.25, showlegend=True,
        **roomy(across, down, [*products, *tensors]),
    )  # fmt: skip


def over_time(
    lines: Sequence[tuple[str, Series]], label: str, *, dark: bool, logarithmic: bool = False
) -> go.Figure:
    """Series over the steps; crosses where they are NaN or infinite."""
    if not any(len(series) for _, series in lines):
        return empty("Nothing was measured yet.", dark=dark)
    traces = []
    for number, (name, series) in enumerate(lines):
        look = theme.line(number, dark)
        finite = np.isfinite(series.values)
        traces.append(go.Scatter(
            x=series.steps,
            y=np.where(finite, series.values, np.nan),
            name=text(name),
            mode="lines" if len(series) > 60 else "lines+markers",
            line={**look, "width": 2},
            marker={"size": 5},
            connectgaps=False,
            hovertemplate="%{y:.5g}",
        ))  # fmt: skip
        if not finite.all():
            broken = series.steps[~finite]
            traces.append(go.Scatter(
                x=broken,
                y=np.full(len(broken), _floor(series)),
                name=f"{text(name)}: NaN or infinite",
                mode="markers",
                marker={"symbol": "x", "color": "#c92a2a", "size": 9},
                hovertemplate="NaN or infinite",
            ))  # fmt: skip
    title = wrapped(label, 30)
    upwards = {"title": title, "type": "log" if logarithmic else "linear"}
    # A second line of the title is as wide as two digits.
    room = roomy({"title": "step"}, upwards, [NUMBER + "  " * title.count("<br>")])
    return frame(*traces, dark=dark, hovermode="x unified", **room)


def _floor(series: Series) -> float:
    finite = series.values[np.isfinite(series.values)]
    return float(finite.min()) if finite.size else 1.0


def heads(series: Mapping[Column, Series], key: str, *, dark: bool) -> go.Figure:
    """One measure of every head over the steps, as a map: heads down, steps across."""
    named = sorted(
        ((int(column.key[4:].partition(".")[0]), found) for column, found in series.items()),
        key=lambda one: one[0],
    )
    if not named:
        return empty("No single heads were measured here.", dark=dark)
    steps = np.unique(np.concatenate([found.steps for _, found in named]))
    values = np.full((len(named), len(steps)), np.nan, dtype=np.float32)
    for row, (_, found) in enumerate(named):
        values[row, np.searchsorted(steps, found.steps)] = found.values
    higher = key.endswith(("snr_db", "snr_qk_db", "snr_proj_db", "ratio"))
    return frame(
        go.Heatmap(
            z=values, x=[str(step) for step in steps.tolist()],
            y=[f"head {number}" for number, _ in named],
            colorscale=theme.SEQUENTIAL, reversescale=higher, xgap=1, ygap=1,
            colorbar={"title": {"text": f"{text(key)}<br>{'low' if higher else 'high'} is worst",
                                "side": "right"}, "thickness": 12},
            hovertemplate="%{y}, step %{x}<br>%{z:.4g}<extra></extra>",
        ),
        dark=dark,
        plot_bgcolor=theme.absent(dark),
        xaxis={"title": "step", "type": "category", "showgrid": False},
        yaxis={"autorange": "reversed", "showgrid": False},
    )  # fmt: skip
