"""Layers × measures: ranks of all, and one measure as blocks × modules."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from qprobe.dashboard import theme
from qprobe.dashboard.figures.frame import empty, frame, text
from qprobe.dashboard.layer_table import LayerTable, block_and_module
from qprobe.dashboard.measures import Measure
from qprobe.dashboard.numerals import plain, short

#: Below this many columns a gap is drawn between cells: without gaps a map is one small image,
#: with them every cell is drawn by itself.
_GAPS = 120


def labels(names: Sequence[str], longest: int = 36) -> list[str]:
    """Names short enough for a chart, still all different.

    >>> labels(["a" * 70 + "x", "a" * 70 + "y"], 5)
    ['aa…ax', 'aa…ay']
    >>> labels(["a" * 70, "a" * 71], 5)
    ['aa…aa', 'aa…aa #2']
    """
    found: list[str] = []
    times: dict[str, int] = {}
    for name in names:
        label = text(short(name, longest))
        times[label] = times.get(label, 0) + 1
        found.append(label if times[label] == 1 else f"{label} #{times[label]}")
    return found


def fingerprint(table: LayerTable, *, dark: bool) -> go.Figure:
    """Rank of every layer within each measure along the depth of the model: bright is worst."""
    if not table.sites or not table.measures:
        return empty("No layer matches.", dark=dark)
    names = labels(table.sites)
    measures = labels([measure.title for measure in table.measures])
    shares = table.shares.T.astype(np.float32)
    gap = int(len(names) < _GAPS)
    return frame(
        go.Heatmap(
            z=shares,
            x=names,
            y=measures,
            zmin=0,
            zmax=1,
            colorscale=theme.SEQUENTIAL,
            xgap=gap,
            ygap=gap,
            hoverongaps=False,
            colorbar={
                "title": {"text": "rank", "side": "right"},
                "tickvals": [0, 1],
                "ticktext": ["best", "worst"],
                "thickness": 12,
            },
            hovertemplate="<b>%{x}</b><br>%{y}<br>rank %{z:.2f}, 1 = worst<extra></extra>",
        ),
        *_nonfinite(table, names, measures),
        dark=dark,
        plot_bgcolor=theme.absent(dark),
        showlegend=False,
        xaxis={
            "showticklabels": len(names) <= 40, "tickangle": -45, "showgrid": False,
            "title": "" if len(names) <= 40 else f"{len(names)} layers, in the order of the model",
        },
        yaxis={"autorange": "reversed", "showgrid": False},
    )  # fmt: skip


def matrix(table: LayerTable, measure: Measure, *, dark: bool) -> go.Figure:
    """One measure in its own unit, blocks down and modules across: bright is worst.

    Colours are clipped at the 2nd and 98th percentile, or one loud layer would hide all others.
    """
    if not table.sites:
        return empty("No layer matches.", dark=dark)
    one = table.only(table.sites, [measure])
    places = [block_and_module(site) for site in one.sites]
    blocks = list(dict.fromkeys(block for block, _ in places))
    modules = list(dict.fromkeys(module for _, module in places))
    values = np.full((len(blocks), len(modules)), np.nan)
    told = np.full(values.shape, "not measured", dtype=object)
    for (block, module), value, there in zip(
        places, one.values[:, 0], one.there[:, 0], strict=True
    ):
        at = blocks.index(block), modules.index(module)
        values[at] = value
        told[at] = plain(value) if there else "not measured"
    shown = _scaled(values, measure)
    low, high = _limits(shown)
    return frame(
        go.Heatmap(
            z=shown.astype(np.float32),
            x=labels([module or "·" for module in modules], 40),
            y=labels([block or "·" for block in blocks], 40),
            zmin=low,
            zmax=high,
            colorscale=theme.SEQUENTIAL,
            reversescale=measure.higher_is_better,
            xgap=1,
            ygap=1 if len(blocks) < _GAPS else 0,
            hoverongaps=True,
            customdata=told,
            colorbar=_colorbar(measure, low, high),
            hovertemplate="<b>%{y} %{x}</b><br>%{customdata}<extra></extra>",
        ),
        dark=dark,
        plot_bgcolor=theme.absent(dark),
        xaxis={"side": "top", "showgrid": False, "tickangle": 0 if len(modules) < 9 else -45},
        yaxis={"autorange": "reversed", "showgrid": False},
    )


def _nonfinite(
    table: LayerTable, names: Sequence[str], measures: Sequence[str]
) -> list[go.Scatter]:
    rows, columns = np.nonzero(table.there & ~np.isfinite(table.values))
    if not len(rows):
        return []
    marks = go.Scatter(
        x=[names[row] for row in rows.tolist()],
        y=[measures[column] for column in columns.tolist()],
        mode="markers",
        marker={"symbol": "x", "size": 8, "color": "#c92a2a"},
        name="NaN or infinite",
        customdata=[
            plain(table.values[row, column]) for row, column in zip(rows, columns, strict=True)
        ],
        hovertemplate="<b>%{x}</b><br>%{y}<br>%{customdata}<extra></extra>",
    )
    return [marks]


def _scaled(values: np.ndarray, measure: Measure) -> np.ndarray:
    finite = np.where(np.isfinite(values), values, np.nan)
    if not measure.is_logarithmic:
        return finite
    return np.log10(np.where(finite > 0, finite, np.nan))


def _limits(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(finite, [2, 98]))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _colorbar(measure: Measure, low: float, high: float) -> dict[str, object]:
    worst = "low is worst" if measure.higher_is_better else "high is worst"
    bar: dict[str, object] = {
        "title": {"text": f"{text(measure.title)}<br>{worst}, clipped at p2–p98", "side": "right"},
        "thickness": 12,
    }
    if measure.is_logarithmic:
        ticks = np.linspace(low, high, 4)
        bar |= {"tickvals": ticks.tolist(), "ticktext": [f"{10**tick:.3g}" for tick in ticks]}
    return bar
