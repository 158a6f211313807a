"""Draws numbers with their intervals as SVG: panels side by side, one row per number.

Plain text, so that a chart changes in git where a number does. Colours tell nothing that the
labels do not.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from number import Number

_LABELS, _PLOT, _GAP, _ROW, _TOP, _FOOT = 150, 230, 26, 24, 66, 44
_INK, _QUIET, _BLUE, _PALE, _LINE = "#111827", "#4b5563", "#1f4e79", "#9dc3e6", "#d1d5db"
_STYLE = (
    "text{font:12px 'DejaVu Sans',Verdana,sans-serif}.name{font-weight:600;fill:#111827}"
    ".quiet{fill:#4b5563;font-size:11px}"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A number, the values of single runs around it, and what it is; None was not measured."""

    label: str
    number: Number | None
    points: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Rows under a title, with a line where nothing would have changed."""

    title: str
    rows: tuple[Row, ...]
    neutral: float | None


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Panels with the same rows, what their axis shows, and what a reader should see in them."""

    title: str
    axis: str
    panels: tuple[Panel, ...]


def draw(chart: Chart) -> str:
    """The chart as SVG; panels share one axis, so that they can be compared."""
    low, high = _range(chart.panels)
    ticks = list(_ticks(low, high))
    rows = max(len(panel.rows) for panel in chart.panels)
    wide = _LABELS + len(chart.panels) * (_PLOT + _GAP) + 8
    tall = _TOP + rows * _ROW + _FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" role="img">',
        f"<title>{escape(chart.title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{wide}" height="{tall}" fill="#ffffff"/>',
        _text(12, 22, chart.title, 'class="name"'),
        *_labels(chart.panels[0].rows),
    ]
    for place, panel in enumerate(chart.panels):
        left = _LABELS + place * (_PLOT + _GAP)
        scale = _Scale(left=left, low=low, high=high)
        parts += _frame(panel, scale, ticks, rows)
        for number, row in enumerate(panel.rows):
            parts += _row(row, scale, _TOP + number * _ROW + _ROW / 2)
    parts.append(
        _text((_LABELS + wide) / 2, tall - 8, chart.axis, 'class="quiet" text-anchor="middle"')
    )
    return "\n".join([*parts, "</svg>", ""])


@dataclass(frozen=True, kw_only=True)
class _Scale:
    left: float
    low: float
    high: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.left + 8 + (_PLOT - 16) * min(1.0, max(0.0, share))


def _range(panels: Iterable[Panel]) -> tuple[float, float]:
    """Everything that is drawn, and a little more."""
    values = [
        value
        for panel in panels
        for row in panel.rows
        for value in (
            *row.points,
            *(() if row.number is None else (row.number.low, row.number.high)),
            *(() if panel.neutral is None else (panel.neutral,)),
        )
    ]
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room


def _ticks(low: float, high: float) -> Iterable[float]:
    """Round values, three to six of them.

    >>> [round(tick, 3) for tick in _ticks(0.93, 1.08)]
    [0.95, 1.0, 1.05]
    """
    raw = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step)
    return [tick * step for tick in range(first, math.floor(high / step) + 1)]


def _frame(panel: Panel, scale: _Scale, ticks: Sequence[float], rows: int) -> list[str]:
    bottom = _TOP + rows * _ROW
    middle = scale.left + _PLOT / 2
    parts = [_text(middle, 46, panel.title, 'class="name" text-anchor="middle"')]
    for tick in ticks:
        x = scale.at(tick)
        parts.append(_line(x, _TOP, x, bottom, f'stroke="{_LINE}"'))
        parts.append(_text(x, bottom + 15, f"{tick:g}", 'class="quiet" text-anchor="middle"'))
    if panel.neutral is not None:
        x = scale.at(panel.neutral)
        parts.append(_line(x, _TOP, x, bottom, f'stroke="{_INK}" stroke-dasharray="4 3"'))
    return parts


def _labels(rows: Sequence[Row]) -> list[str]:
    return [
        _text(_LABELS - 6, _TOP + place * _ROW + 16, row.label, f'text-anchor="end" fill="{_INK}"')
        for place, row in enumerate(rows)
    ]


def _row(row: Row, scale: _Scale, y: float) -> list[str]:
    if row.number is None:
        return [_text(scale.left + 12, y + 4, "not run", 'class="quiet"')]
    parts = [
        f'<circle cx="{scale.at(point):.1f}" cy="{y:g}" r="3" fill="{_PALE}"/>'
        for point in row.points
    ]
    low, high = scale.at(row.number.low), scale.at(row.number.high)
    shown = escape(row.number.shown())
    return [
        *parts,
        _line(low, y, high, y, f'stroke="{_BLUE}" stroke-width="2"'),
        f'<circle cx="{scale.at(row.number.estimate):.1f}" cy="{y:g}" r="4.5" fill="{_BLUE}">'
        f"<title>{escape(row.label)}: {shown}</title></circle>",
    ]


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:g}" x2="{x2:.1f}" y2="{y2:g}" {style}/>'


def _text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(words)}</text>'
