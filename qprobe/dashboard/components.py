"""The pieces that pages are built of; each has the labels that a screen reader needs."""

from collections.abc import Mapping, Sequence
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import dcc, html

from qprobe.dashboard.attributes import aria, data
from qprobe.dashboard.theme import GRAPH_CONFIG, GRID_THEME

#: Words and signs of a severity or a status, so that nothing is told by colour alone.
SIGNS = {
    "critical": ("▲", "red"),
    "warn": ("◆", "orange"),
    "info": ("●", "blue"),
    "running": ("▶", "blue"),
    "finished": ("✓", "teal"),
    "interrupted": ("‖", "orange"),
    "failed": ("✕", "red"),
    "unreadable": ("✕", "red"),
}


#: Characters that a narrow choice has room for.
_LONG = 20

#: The options of a choice are built when it is opened: a layer has a hundred measures.
WHEN_OPENED = {"keepMounted": False}


def control(page: str, name: str) -> dict[str, str]:
    """The id of a control: its value is written into the address under ``name``."""
    return {"control": name, "page": page}


def card(title: str, *children: Any, note: str = "", aside: Any = None) -> html.Section:
    """A titled box."""
    # Plain elements: a page has dozens of these, and each of Mantine's costs ten times as much.
    heading = html.Div([html.H2(title, className="card-title"), aside], className="card-heading")
    return html.Section([heading, _note(note), *children], className="card")


def chart(
    name: str, label: str, height: int, figure: Any = None, *, is_map: bool = False
) -> html.Div:
    """A graph with its name, its height and its exports; without a figure a callback draws it.

    A map keeps the width that its cells and labels need, and is scrolled on a phone.
    """
    buttons = [
        html.Button(
            kind.upper(),
            type="button",
            className="export",
            title=f"Save {label} as {kind.upper()}",
            **data(export=kind, chart=name),
            **aria(label=f"Save {label} as {kind}"),
        )
        for kind in ("png", "svg", "csv")
    ]
    drawn = {} if figure is None else {"figure": figure}
    # What is scrolled has to be reached by keys.
    focus: dict[str, Any] = {"tabIndex": 0} if is_map else {}
    graph = dcc.Graph(
        id=name, config=GRAPH_CONFIG, style={"height": height}, responsive=True, **drawn
    )
    return html.Div(
        [
            # Its height from the start: what is below stays where it is when the chart comes.
            html.Div(
                graph, role="group", style={"minHeight": height}, **aria(label=label), **focus
            ),
            html.Div(buttons, className="exports"),
        ],
        className="chart is-map" if is_map else "chart",
    )


def grid(name: str, label: str, columns: Sequence[Mapping[str, Any]], **options: Any) -> html.Div:
    """A sortable table with keyboard navigation and a CSV of what is shown."""
    rows = options.pop("rows", [])
    height = options.pop("height", 420)
    table = dag.AgGrid(
        id=name,
        rowData=rows,
        columnDefs=list(columns),
        defaultColDef={"sortable": True, "resizable": True, "suppressHeaderMenuButton": True},
        dashGridOptions={
            "theme": GRID_THEME,
            "animateRows": False,
            "enableCellTextSelection": True,
            "tooltipShowDelay": 300,
            **options,
        },
        csvExportParams={"fileName": f"{name}.csv"},
        style={"height": height, "width": "100%"},
    )
    button = html.Button(
        "CSV",
        type="button",
        className="export",
        **data(grid=name),
        **aria(label=f"Save {label} as csv"),
    )
    return html.Div(
        [
            html.Div(table, role="group", **aria(label=label)),
            html.Div(button, className="exports"),
        ],
        className="chart",
    )


def later(name: str, height: int) -> html.Div:
    """A place for what a callback of ``name``'s store builds once it comes into view."""
    return html.Div(
        [html.Div(id=name, style={"minHeight": height}), dcc.Store(id=f"{name}-wanted")]
    )


def select(page: str, name: str, label: str, options: Sequence[str], value: str | None) -> Any:
    """A searchable choice."""
    return dmc.Select(
        id=control(page, name),
        label=label,
        data=[{"value": option, "label": option} for option in options],
        value=value,
        searchable=len(options) > 8,
        allowDeselect=False,
        size="sm",
        comboboxProps=WHEN_OPENED,
        className="control wide" if max(map(len, options), default=0) > _LONG else "control",
    )


def several(page: str, name: str, label: str, options: Sequence[str], value: list[str]) -> Any:
    """A choice of any number; none means all."""
    return dmc.MultiSelect(
        id=control(page, name),
        label=label,
        placeholder="" if value else "all",
        data=[{"value": option, "label": option} for option in options],
        value=value,
        searchable=True,
        clearable=True,
        size="sm",
        comboboxProps=WHEN_OPENED,
        className="control wide",
    )


def kpi(value: str, label: str, *, sign: str = "") -> html.Div:
    """One number and what it is."""
    shown = [html.Span(f"{sign} ", **aria(hidden="true")) if sign else None, value]
    return html.Div([html.Div(shown, className="kpi-value"), _note(label)], className="card kpi")


def status(word: str) -> html.Span:
    """A word with its sign and colour."""
    sign, colour = SIGNS.get(word, ("●", "gray"))
    return html.Span(
        [html.Span(f"{sign} ", **aria(hidden="true")), word], className=f"status is-{colour}"
    )


def empty_state(missing: str, how: str = "", command: str = "") -> html.Section:
    """What is not there, and the command that makes it."""
    return html.Section(
        [
            html.Strong(missing),
            _note(how),
            html.Pre(command, className="code", tabIndex=0) if command else None,
        ],
        className="card empty",
    )


def page_title(title: str, about: str) -> html.Div:
    """The heading of a page and one sentence about it."""
    return html.Div([html.H1(title), _note(about)], className="page-title")


def rows_table(titles: Sequence[str], rows: Sequence[html.Tr]) -> html.Div:
    """Rows under their titles; what does not fit is scrolled, and the page stays as it is."""
    head = html.Tr([html.Th(title, scope="col") for title in titles])
    rows_ = html.Table([html.Thead(head), html.Tbody(list(rows))], className="rows")
    return html.Div(rows_, className="rows-scroll", tabIndex=0)


def _note(told: str) -> Any:
    return html.P(told, className="note") if told else None
