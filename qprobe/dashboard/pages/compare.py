"""Compare: two runs on the same axes, layer by layer."""

from typing import Any

from dash import Dash, Input, Output, State, dcc, html

from qprobe.dashboard.components import (
    card,
    chart,
    control,
    empty_state,
    grid,
    page_title,
    select,
)
from qprobe.dashboard.context import Context, Page
from qprobe.dashboard.family import table_of
from qprobe.dashboard.figures import compare as figures
from qprobe.dashboard.layer_table import LayerTable
from qprobe.dashboard.library import Library
from qprobe.dashboard.numerals import plain, short
from qprobe.dashboard.pages.layers import nothing_to_show
from qprobe.errors import InputError


def layout(context: Context) -> Any:
    """The difference as a map, as points, and as a table."""
    run, baseline = context.run, context.baseline
    if run is None:
        return nothing_to_show(context)
    title = page_title("Compare", "This run against the pinned baseline, layer by layer.")
    if baseline is None:
        return html.Div([title, empty_state("No baseline is pinned.",
                                            "Choose one at the top, beside the run.")])  # fmt: skip
    tables = [table_of(context.library, one) for one in (run, baseline)]
    common = [measure for measure in tables[0].telling(99) if measure in tables[1].measures]
    if not common:
        return html.Div(
            [
                title,
                empty_state(
                    "These runs have no measure of layers in common.",
                    "Analyze both checkpoints.",
                    f"qprobe analyze {baseline.path.parent / 'best.pt'}",
                ),
            ]
        )
    names = [measure.name for measure in common]
    columns = [
        {"field": "name", "headerName": "layer", "cellRenderer": "Link", "flex": 2, "minWidth": 190,
         "tooltipField": "name", "cellClass": "mono"},
        *({"field": f"m{place}", "headerName": word, "type": "numericColumn", "flex": 1,
           "minWidth": 120, "valueFormatter": {"function": "measured(params)"}}
          for place, word in enumerate(("this run", "baseline", "difference"))),
        {"field": "note", "headerName": "note", "flex": 1, "minWidth": 130},
    ]  # fmt: skip
    return html.Div(
        [
            title,
            html.Div(select("compare", "measure", "Measure", names,
                            context.query.choice("measure", names, names[0])),
                     className="controls"),
            html.Div(
                [
                    card("Difference", chart("difference", "difference by block and module", 460,
                                             is_map=True),
                         note="This run minus the baseline, turned so that up is worse. × is a "
                         "layer that only one run has."),
                    card("Layer against layer", chart("against", "values of both runs", 460),
                         note="On the line both runs have the same value."),
                ],
                className="two",
            ),
            card("Every layer", grid("compared", "layers of both runs", columns, height=460)),
            dcc.Store(id="compare-runs", data=[run.name, baseline.name]),
        ]
    )  # fmt: skip


def register(app: Dash, library: Library) -> None:
    """Everything follows the measure."""

    @app.callback(
        Output("difference", "figure"),
        Output("against", "figure"),
        Output("compared", "rowData"),
        Input(control("compare", "measure"), "value"),
        Input("compare-runs", "data"),
        Input("look", "data"),
        State("address", "search"),
    )
    def fill(name: str, names: list[str], look: str, search: str | None) -> tuple[Any, ...]:
        ours, theirs = (_table(library, one) for one in names)
        (measure,) = ours.named([name]) or ours.telling(1)
        pairs = figures.paired(ours, theirs, measure)
        context, dark = Context.of(app, library, search), look == "dark"
        rows = [_row(context, names[0], *pair) for pair in pairs]
        titles = (short(names[0], 40), short(names[1], 40))
        return (
            figures.difference(pairs, measure, dark=dark),
            figures.against(pairs, titles, dark=dark),
            rows,
        )


def _table(library: Library, name: str) -> LayerTable:
    run = library.run(name)
    if run is None:
        raise InputError(f"the run {name!r} is gone; choose another one.")
    return table_of(library, run)


def _row(
    context: Context, run: str, site: str, one: float | None, other: float | None
) -> dict[str, Any]:
    apart = one - other if one is not None and other is not None else None
    row: dict[str, Any] = {"name": site, "name_href": context.link("/layer", run=run, layer=site)}
    for place, value in enumerate((one, other, apart)):
        finite = value is not None and abs(value) < float("inf")
        row[f"m{place}"] = value if finite else None
        if value is not None and not finite:
            row[f"t{place}"] = plain(value)
    row["note"] = (
        "" if apart is not None else f"only in {'the baseline' if one is None else 'this run'}"
    )
    return row


PAGE = Page(path="/compare", title="Compare", sign="⇄", layout=layout, register=register)
