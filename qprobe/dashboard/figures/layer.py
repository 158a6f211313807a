"""One layer: its values on the 4-bit grid, how peaked they are, what its products lose."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from qprobe.dashboard import theme
from qprobe.dashboard.figures.frame import empty, frame, margins, text, wrapped
from qprobe.dashboard.layer_detail import FIRST, OCTAVES, Magnitudes
from qprobe.dashboard.numerals import plain
from qprobe.records import Column, Series

#: Magnitudes that E2M1 has.
E2M1 = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_QUANTILES = ("median", "p90", "p99", "max")
#: In full: between 10 and 100 plotly would write a 2 for 20.
_DECADES = tuple(digit * 10.0**power for power in range(-1, 6) for digit in (1, 2, 5))
_AXES = (("channel_kurtosis", "per channel"), ("token_kurtosis", "per token or voxel"))


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
    figure = frame(dark=dark, bargap=0.08, barmode="overlay")
    figure.add_bar(
        x=x + 0.5,
        y=(found.octaves / total).astype(np.float32),
        name="this run",
        marker={"color": theme.lines(dark)[0], "opacity": 0.85},
        customdata=found.octaves,
        hovertemplate="2^%{x:.1f}<br>%{y:.2%} (%{customdata:,})<extra></extra>",
    )
    if other is not None and other.octaves.sum():
        figure.add_scatter(
            x=x + 0.5,
            y=(other.octaves / other.octaves.sum()).astype(np.float32),
            name="baseline",
            mode="lines",
            line={"shape": "hvh", "color": theme.lines(dark)[1], "width": 2},
            hovertemplate="%{y:.2%}<extra>baseline</extra>",
        )
    _grid(figure, largest, (float(low), float(high)), dark)
    figure.update_xaxes(
        title="|x|; lines: E2M1 under one scale", range=[low, high],
        tickvals=ticks, ticktext=[f"2<sup>{tick}</sup>" for tick in ticks], showgrid=False,
    )  # fmt: skip
    figure.update_yaxes(title="share of values", tickformat=".0%")
    margins(figure, ["100%"])
    return figure


def _grid(figure: go.Figure, largest: float, shown: tuple[float, float], dark: bool) -> None:
    scale = largest / E2M1[-1]
    for value in E2M1:
        figure.add_vline(
            x=float(np.log2(value * scale)), line={"color": theme.ink(dark), "width": 1,
                                                   "dash": "dot"},
        )  # fmt: skip
    # Half of the smallest value is where rounding to zero begins.
    figure.add_vrect(
        x0=shown[0], x1=float(np.log2(E2M1[0] / 2 * scale)), line_width=0,
        fillcolor=theme.lines(dark)[1], opacity=0.12, layer="below",
        annotation_text="rounds to zero", annotation_position="top left",
    )  # fmt: skip


def kurtosis(values: Mapping[str, float], *, dark: bool) -> go.Figure:
    """Kurtosis over channels and over tokens or voxels; a normal distribution has 3."""
    figure = frame(dark=dark, barmode="group")
    for number, (stem, name) in enumerate(_AXES):
        known = [(end, values[f"{stem}_{end}"]) for end in _QUANTILES if f"{stem}_{end}" in values]
        if known:
            figure.add_bar(
                x=[end for end, _ in known],
                y=np.array([value for _, value in known], dtype=np.float64),
                name=name,
                marker={"color": theme.lines(dark)[number]},
                hovertemplate="%{x} %{y:.4g}<extra>" + name + "</extra>",
            )
    if not figure.data:
        return empty("No kurtosis was measured here.", dark=dark)
    figure.add_hline(y=3, line={"color": theme.ink(dark), "dash": "dash", "width": 1})
    figure.update_yaxes(title="kurtosis (dashed: normal, 3)", type="log", tickvals=_DECADES,
                        ticktext=[f"{tick:,g}" for tick in _DECADES])  # fmt: skip
    margins(figure)
    return figure


def operands(
    products: Mapping[str, float], tensors: Mapping[str, float], *, dark: bool
) -> go.Figure:
    """Signal to quantization noise: of operands as the recipe takes them (``fprop.x``), and of
    tensors in four bits along their channels (``nvfp4 input``), which knows no recipe."""
    if not products and not tensors:
        return empty("No quantization error was measured here.", dark=dark)
    figure = frame(dark=dark, bargap=0.25)
    for number, (name, values) in enumerate(
        (("as the recipe takes it", products), ("in four bits, along channels", tensors))
    ):
        if values:
            known = np.array(list(values.values()), dtype=np.float64)
            figure.add_bar(
                x=np.where(np.isfinite(known), known, np.nan),
                y=[text(one) for one in values],
                orientation="h",
                name=name,
                marker={"color": theme.lines(dark)[number], "opacity": 0.9 if not number else 0.5},
                text=[f"{value:.1f}" if np.isfinite(value) else plain(value) for value in known],
                textposition="outside",
                hovertemplate="%{y}<br>%{x:.2f} dB<extra>" + name + "</extra>",
            )
    known = np.array([*products.values(), *tensors.values()], dtype=np.float64)
    longest = float(np.max(known, initial=0.0, where=np.isfinite(known)))
    # Room for the number after the longest bar.
    room = {"range": [0, 1.2 * longest]} if longest and np.nanmin(known) >= 0 else {}
    figure.update_xaxes(title="SQNR in dB, more is better", rangemode="tozero", **room)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(showlegend=True)
    margins(figure, [*products, *tensors])
    return figure


def over_time(
    lines: Sequence[tuple[str, Series]], label: str, *, dark: bool, logarithmic: bool = False
) -> go.Figure:
    """Series over the steps; crosses where they are NaN or infinite."""
    if not any(len(series) for _, series in lines):
        return empty("Nothing was measured yet.", dark=dark)
    figure = frame(dark=dark, hovermode="x unified")
    for number, (name, series) in enumerate(lines):
        look = theme.line(number, dark)
        finite = np.isfinite(series.values)
        figure.add_scatter(
            x=series.steps,
            y=np.where(finite, series.values, np.nan),
            name=text(name),
            mode="lines" if len(series) > 60 else "lines+markers",
            line={**look, "width": 2},
            marker={"size": 5},
            connectgaps=False,
            hovertemplate="%{y:.5g}",
        )
        if not finite.all():
            broken = series.steps[~finite]
            figure.add_scatter(
                x=broken,
                y=np.full(len(broken), _floor(series)),
                name=f"{text(name)}: NaN or infinite",
                mode="markers",
                marker={"symbol": "x", "color": "#c92a2a", "size": 9},
                hovertemplate="NaN or infinite",
            )
    figure.update_xaxes(title="step")
    title = wrapped(label, 30)
    figure.update_yaxes(title=title, type="log" if logarithmic else "linear")
    # A second line of the title is as wide as two digits.
    margins(figure, ["-0.00001" + "  " * title.count("<br>")])
    return figure


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
    figure = frame(
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
    )  # fmt: skip
    figure.update_xaxes(title="step", type="category", showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure
