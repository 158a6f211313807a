"""Layers: which layers stand out, in three forms that lead to the same place."""

from typing import Any, TypeAlias

import dash_mantine_components as dmc
import numpy as np
from dash import Dash, Input, Output, State, dcc, html, no_update, set_props

from qprobe.dashboard import layer_grid
from qprobe.dashboard.attributes import data
from qprobe.dashboard.clientside import build_later, clientside
from qprobe.dashboard.components import (
    card,
    chart,
    control,
    empty_state,
    grid,
    later,
    page_title,
    rows_table,
    select,
    several,
)
from qprobe.dashboard.context import Context, Page
from qprobe.dashboard.family import table_of
from qprobe.dashboard.figures.layers import fingerprint, labels, matrix
from qprobe.dashboard.filters import compiled
from qprobe.dashboard.layer_table import (
    LayerTable,
    block_and_module,
    mean_shares,
    product_noise,
)
from qprobe.dashboard.library import Library, Run
from qprobe.dashboard.measures import RECOVERY
from qprobe.dashboard.numerals import plain, short
from qprobe.dashboard.query import Query
from qprobe.errors import InputError

#: Run, measures, step and filter: what the charts, the list and the grid show.
View: TypeAlias = dict[str, Any]

_LATEST = "latest"
#: Rows whose layers are links that the keys j and k walk through.
_WORST = 10


def layout(context: Context) -> Any:
    """The controls, the three forms, and the way to one layer."""
    run = context.run
    if run is None:
        return nothing_to_show(context)
    table = table_of(context.library, run)
    if not table.sites:
        return html.Div(
            [
                page_title("Layers", run.name),
                empty_state(
                    "This run has no measurements of layers.",
                    "An analysis of its checkpoint measures every layer; a training does it with "
                    "probes attached.",
                    f"qprobe analyze {run.path.parent / 'best.pt'}",
                ),
            ]
        )
    view = _view(context, run, table)
    shown = _chosen(_table_at(context.library, run.name, view), view)
    return html.Div(
        [
            page_title("Layers", "Which layers stand out. Bright is worst everywhere; a click "
                       "leads to the layer."),
            _controls(context.query, table, view),
            html.Div(_counted(shown, table), id="layers-shown", className="note", role="status"),
            card("Rank along the depth of the model",
                 chart("fingerprint", "rank of layers within each measure", 380,
                       fingerprint(shown, dark=context.dark), is_map=True),
                 note="Rank within each measure: 1 is the worst layer. × is NaN or infinite, grey "
                 "was not measured."),
            html.Div(
                [
                    card("Blocks and modules",
                         chart("matrix", "one measure by block and module", 480, is_map=True)),
                    card("The worst layers",
                         html.Div(_worst(context, run.name, shown), id="worst"),
                         note="By what they bring back alone where that was measured, then by the "
                         "share of noise in their forward product, then by their mean rank. Keys j "
                         "and k walk through them on a layer's page."),
                ],
                className="two",
            ),
            card("Every layer", later("layers-table", _height(table))),
            dcc.Store(id="layers-links", data=_links(context, run.name, shown.sites)),
            dcc.Store(id="layers-view", data=view),
            dcc.Store(id="layers-look"),
            dcc.Store(id="layers-in-grid"),
        ]
    )  # fmt: skip


def _view(context: Context, run: Run, table: LayerTable) -> View:
    """What the address asks for."""
    query = context.query
    return {
        "run": run.name,
        "measures": query.choices("measures", [measure.name for measure in table.measures]),
        "step": query.choice("step", _steps(table.last_step), _LATEST) or _LATEST,
        "filter": query.text("filter"),
    }


def _height(table: LayerTable) -> int:
    return min(520, 90 + 34 * len(table.sites))


def _counted(shown: LayerTable, whole: LayerTable) -> str:
    return f"{len(shown.sites)} of {len(whole.sites)} layers, values up to step {shown.last_step}"


def nothing_to_show(context: Context) -> Any:
    """There is no such run, or none at all."""
    name = context.query.text("run")
    if name:
        return empty_state(f"There is no run {name!r} here.", "Choose another one above.")
    return empty_state(
        "There is no run yet.",
        "It appears here by itself when one is written.",
        "qprobe train --size tiny --recipe nvfp4",
    )


def _controls(query: Query, table: LayerTable, view: View) -> html.Div:
    names = [measure.name for measure in table.measures]
    first = table.telling()[0].name
    steps = _steps(table.last_step)
    return html.Div(
        [
            select("layers", "measure", "Measure of the matrix", names,
                   query.choice("measure", names, first)),
            several("layers", "measures", "Measures (the most telling 12 if none)", names,
                    view["measures"]),
            select("layers", "step", "Step", steps, view["step"]),
            dmc.TextInput(
                id=control("layers", "filter"),
                label="Layers (regex)",
                value=view["filter"],
                error=compiled(view["filter"]).problem,
                debounce=250,
                size="sm",
                className="control wide mono-input",
                **data(filter="true"),
            ),
        ],
        className="controls",
    )  # fmt: skip


def _steps(last: int) -> list[str]:
    """The latest and 20 others between the first and it."""
    return [_LATEST, *(str(step) for step in sorted({last * part // 20 for part in range(21)}))]


def _worst(context: Context, run: str, table: LayerTable) -> Any:
    shares = np.where(table.there, table.shares, 0.0)
    mean, noise = mean_shares(table), product_noise(table)
    recovered = RECOVERY in table.measures
    noisy = bool(np.isfinite(noise).any())
    rows = []
    for site in table.worst_first[:_WORST]:
        place = table.sites.index(site)
        measure = table.measures[int(shares[place].argmax())]
        cells: list[Any] = [
            html.A(short(site, 80), href=_to(context, run, site), className="mono",
                   **data(go="true", failing="true"))
        ]  # fmt: skip
        if recovered:
            cells.append(plain(table.at(site, RECOVERY)))
        if noisy:
            cells.append("–" if np.isnan(noise[place]) else f"{noise[place]:.1%}")
        cells += [f"{mean[place]:.2f}", f"{measure.title} {plain(table.at(site, measure))}"]
        rows.append(html.Tr([html.Td(cell) for cell in cells]))
    titles = ["layer", *(["brings back"] if recovered else []), *(["noise"] if noisy else []),
              "mean rank", "worst at"]  # fmt: skip
    return rows_table(titles, rows)


def _links(context: Context, run: str, sites: tuple[str, ...]) -> dict[str, Any]:
    """Where a click on a cell leads: by the label of a layer, or of its block and module."""
    found = dict(zip(labels(sites), sites, strict=True))
    places = [block_and_module(site) for site in sites]
    blocks = list(dict.fromkeys(block for block, _ in places))
    modules = list(dict.fromkeys(module for _, module in places))
    down = dict(zip(blocks, labels([block or "·" for block in blocks], 40), strict=True))
    across = dict(zip(modules, labels([module or "·" for module in modules], 40), strict=True))
    for site, (block, module) in zip(sites, places, strict=True):
        found[f"{down[block]}\n{across[module]}"] = site
    return {"to": context.link("/layer", run=run), "sites": found}


def _to(context: Context, run: str, site: str) -> str:
    return context.link("/layer", run=run, layer=site)


def register(app: Dash, library: Library) -> None:
    """The three forms follow the controls, one after another; a click leads to the layer."""
    _register_charts(app, library)
    _register_lists(app, library)
    _register_grid(app, library)
    build_later(app, "layers-table")
    for name in ("fingerprint", "matrix"):
        clientside(app, "open_layer", Input(name, "clickData"), State("layers-links", "data"))


def _chosen(whole: LayerTable, view: View) -> LayerTable:
    """The layers that match, and the measures that were named or tell most."""
    sites = compiled(view["filter"]).of(whole.sites)
    return whole.only(sites, whole.named(view["measures"]) or whole.telling()).measured()


# The ranks come first and tell the others what is shown: three answers at once would make each
# of them late, and what has not changed is not asked for.
def _register_charts(app: Dash, library: Library) -> None:
    @app.callback(
        Output("fingerprint", "figure"),
        Output("layers-view", "data"),
        Output("layers-look", "data"),
        *[Input(control("layers", name), "value") for name in ("measures", "step", "filter")],
        Input("look", "data"),
        State("layers-view", "data"),
        prevent_initial_call=True,
    )
    def ranks(measures: list[str], step: str, pattern: str, look: str, before: View) -> Any:
        view = {**before, "measures": measures or [], "step": step, "filter": pattern or ""}
        table = _chosen(_table_at(library, view["run"], view), view)
        drawn = fingerprint(table, dark=look == "dark")
        return drawn, no_update if view == before else view, look

    @app.callback(
        Output("matrix", "figure"),
        Input(control("layers", "measure"), "value"),
        Input("layers-view", "data"),
        Input("layers-look", "data"),
        State("look", "data"),
    )
    def one(name: str, view: View, _: str, look: str) -> Any:
        whole = _table_at(library, view["run"], view)
        (measure,) = whole.named([name]) or whole.telling(1)
        part = whole.only(compiled(view["filter"]).of(whole.sites), [measure]).measured()
        return matrix(part, measure, dark=look == "dark")


def _register_lists(app: Dash, library: Library) -> None:
    @app.callback(
        Output("worst", "children"),
        Output("layers-links", "data"),
        Output("layers-shown", "children"),
        Output(control("layers", "filter"), "error"),
        Input("layers-view", "data"),
        State("address", "search"),
        prevent_initial_call=True,
    )
    def lists(view: View, search: str | None) -> tuple[Any, ...]:
        whole = _table_at(library, view["run"], view)
        table, context = _chosen(whole, view), Context.of(app, library, search)
        return (
            _worst(context, view["run"], table),
            _links(context, view["run"], table.sites),
            _counted(table, whole),
            compiled(view["filter"]).problem,
        )


def _register_grid(app: Dash, library: Library) -> None:
    def told(view: View, search: str | None) -> tuple[list[Any], list[Any]]:
        table = _chosen(_table_at(library, view["run"], view), view)
        context = Context.of(app, library, search)
        return layer_grid.columns(table), layer_grid.rows(context, view["run"], table)

    @app.callback(
        Output("layers-table", "children"),
        Output("layers-in-grid", "data"),
        Input("layers-table-wanted", "data"),
        State("layers-view", "data"),
        State("address", "search"),
        prevent_initial_call=True,
    )
    def build(_: bool, view: View, search: str | None) -> tuple[Any, View]:
        columns, rows = told(view, search)
        height = _height(_table_at(library, view["run"], view))
        made = grid("layers", "layers", columns, rows=rows, height=height,
                    getRowId={"function": "params.data.name"})  # fmt: skip
        return made, view

    # Also when the grid has just been built: the controls may have moved on meanwhile.
    @app.callback(
        Input("layers-view", "data"),
        Input("layers-in-grid", "data"),
        State("address", "search"),
        prevent_initial_call=True,
    )
    def refill(view: View, there: View | None, search: str | None) -> None:
        if there is not None and view != there:
            columns, rows = told(view, search)
            set_props("layers", {"columnDefs": columns, "rowData": rows})
            set_props("layers-in-grid", {"data": view})


def _table_at(library: Library, name: str, view: View) -> LayerTable:
    run = library.run(name)
    if run is None:
        raise InputError(f"the run {name!r} is gone; choose another one.")
    step = view["step"]
    return table_of(library, run, None if step == _LATEST else int(step))


PAGE = Page(path="/layers", title="Layers", sign="▤", layout=layout, register=register)
