"""Layers: which layers stand out, in three forms that lead to the same place."""

from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
import numpy as np
from dash import Dash, Input, Output, State, dcc, html

from qprobe.dashboard.attributes import data
from qprobe.dashboard.clientside import clientside
from qprobe.dashboard.components import (
    card,
    chart,
    control,
    empty_state,
    grid,
    page_title,
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
from qprobe.dashboard.library import Library
from qprobe.dashboard.measures import RECOVERY, Measure
from qprobe.dashboard.numerals import plain, short
from qprobe.dashboard.query import Query
from qprobe.errors import InputError

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
    return html.Div(
        [
            page_title("Layers", "Which layers stand out. Bright is worst everywhere; a click "
                       "leads to the layer."),
            _controls(context.query, table),
            html.Div(id="layers-shown", className="note", role="status"),
            card("Rank along the depth of the model",
                 chart("fingerprint", "rank of layers within each measure", 380),
                 note="Rank within each measure: 1 is the worst layer. × is NaN or infinite, grey "
                 "was not measured."),
            html.Div(
                [
                    card("Blocks and modules",
                         chart("matrix", "one measure by block and module", 480)),
                    card("The worst layers", html.Div(id="worst"),
                         note="By what they bring back alone where that was measured, then by the "
                         "share of noise in their forward product, then by their mean rank. Keys j "
                         "and k walk through them on a layer's page."),
                ],
                className="two",
            ),
            card("Every layer", grid("layers", "layers", [],
                                     height=min(520, 90 + 34 * len(table.sites)),
                                     getRowId={"function": "params.data.name"})),
            dcc.Store(id="layers-links"),
            dcc.Store(id="layers-run", data=run.name),
        ]
    )  # fmt: skip


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


def _controls(query: Query, table: LayerTable) -> html.Div:
    names = [measure.name for measure in table.measures]
    chosen = query.choices("measures", names)
    first = table.telling()[0].name
    steps = _steps(table.last_step)
    return html.Div(
        [
            select("layers", "measure", "Measure of the matrix", names,
                   query.choice("measure", names, first)),
            several("layers", "measures", "Measures (the most telling 12 if none)", names, chosen),
            select("layers", "step", "Step", steps, query.choice("step", steps, _LATEST)),
            dmc.TextInput(
                id=control("layers", "filter"),
                label="Layers (regex)",
                value=query.text("filter"),
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
        rows.append(dmc.TableTr([dmc.TableTd(cell) for cell in cells]))
    titles = ["layer", *(["brings back"] if recovered else []), *(["noise"] if noisy else []),
              "mean rank", "worst at"]  # fmt: skip
    head = dmc.TableThead(dmc.TableTr([dmc.TableTh(title) for title in titles]))
    return dmc.Table([head, dmc.TableTbody(rows)], verticalSpacing=5, fz="sm")


def _columns(measures: tuple[Measure, ...]) -> list[dict[str, Any]]:
    first = {"field": "name", "headerName": "layer", "cellRenderer": "Link", "pinned": "left",
             "width": 260, "tooltipField": "name", "cellClass": "mono"}  # fmt: skip
    return [
        first,
        *(
            {
                "field": f"m{place}",
                "headerName": measure.title,
                "headerTooltip": measure.name,
                "type": "numericColumn",
                "width": 132,
                "valueFormatter": {"function": "measured(params)"},
                "cellStyle": {"function": "heat(params)"},
                "sortingOrder": ["asc", "desc"] if measure.higher_is_better else ["desc", "asc"],
            }
            for place, measure in enumerate(measures)
        ),
    ]


def _rows(context: Context, run: str, table: LayerTable) -> list[dict[str, Any]]:
    shares = table.shares
    rows = []
    for number, site in enumerate(table.sites):
        row: dict[str, Any] = {
            "name": site,
            "name_href": context.link("/layer", run=run, layer=site),
        }
        for place in range(len(table.measures)):
            if not table.there[number, place]:
                continue
            value, share = float(table.values[number, place]), float(shares[number, place])
            finite = abs(value) < float("inf")
            row[f"m{place}"] = value if finite else None
            row[f"r{place}"] = round(share, 3)
            if not finite:
                row[f"t{place}"] = plain(value)
        rows.append(row)
    return rows


def _links(context: Context, run: str, sites: tuple[str, ...]) -> dict[str, str]:
    """Where a click on a cell leads: by the label of a layer, or of its block and module."""
    links = dict(zip(labels(sites), (_to(context, run, site) for site in sites), strict=True))
    places = [block_and_module(site) for site in sites]
    blocks = list(dict.fromkeys(block for block, _ in places))
    modules = list(dict.fromkeys(module for _, module in places))
    down = dict(zip(blocks, labels([block or "·" for block in blocks], 40), strict=True))
    across = dict(zip(modules, labels([module or "·" for module in modules], 40), strict=True))
    for site, (block, module) in zip(sites, places, strict=True):
        links[f"{down[block]}\n{across[module]}"] = _to(context, run, site)
    return links


def _to(context: Context, run: str, site: str) -> str:
    return context.link("/layer", run=run, layer=site)


def register(app: Dash, library: Library) -> None:
    """The three forms follow the controls; a click leads to the layer."""
    _register_charts(app, library)
    _register_grid(app, library)
    for name in ("fingerprint", "matrix"):
        clientside(app, "open_layer", Input(name, "clickData"), State("layers-links", "data"))


def _chosen(whole: LayerTable, names: Sequence[str] | None, pattern: str | None) -> LayerTable:
    """The layers that match, and the measures that were named or tell most."""
    sites = compiled(pattern).of(whole.sites)
    return whole.only(sites, whole.named(names or []) or whole.telling())


# Charts apart from the grid: 600 rows need not be sent again for another colour.
def _register_charts(app: Dash, library: Library) -> None:
    names = ("measures", "step", "filter")

    @app.callback(
        Output("fingerprint", "figure"),
        *[Input(control("layers", name), "value") for name in names],
        Input("look", "data"),
        Input("layers-run", "data"),
    )
    def ranks(measures: list[str], step: str, pattern: str, look: str, run: str) -> Any:
        table = _chosen(_table_at(library, run, step), measures, pattern)
        return fingerprint(table, dark=look == "dark")

    @app.callback(
        Output("matrix", "figure"),
        Input(control("layers", "measure"), "value"),
        Input(control("layers", "step"), "value"),
        Input(control("layers", "filter"), "value"),
        Input("look", "data"),
        Input("layers-run", "data"),
    )
    def one(name: str, step: str, pattern: str, look: str, run: str) -> Any:
        whole = _table_at(library, run, step)
        (measure,) = whole.named([name]) or whole.telling(1)
        part = whole.only(compiled(pattern).of(whole.sites), [measure])
        return matrix(part, measure, dark=look == "dark")


def _register_grid(app: Dash, library: Library) -> None:
    names = ("measures", "step", "filter")

    @app.callback(
        Output("layers", "columnDefs"),
        Output("layers", "rowData"),
        Output("worst", "children"),
        Output("layers-links", "data"),
        Output("layers-shown", "children"),
        Output(control("layers", "filter"), "error"),
        *[Input(control("layers", name), "value") for name in names],
        Input("layers-run", "data"),
        State("address", "search"),
    )
    def rows(
        measures: list[str], step: str, pattern: str, run: str, search: str | None
    ) -> tuple[Any, ...]:
        whole = _table_at(library, run, step)
        table = _chosen(whole, measures, pattern)
        context = Context.of(app, library, search)
        return (
            _columns(table.measures),
            _rows(context, run, table),
            _worst(context, run, table) if table.sites else None,
            _links(context, run, table.sites),
            f"{len(table.sites)} of {len(whole.sites)} layers, values up to step {whole.last_step}",
            compiled(pattern).problem,
        )


def _table_at(library: Library, name: str, step: str) -> LayerTable:
    run = library.run(name)
    if run is None:
        raise InputError(f"the run {name!r} is gone; choose another one.")
    return table_of(library, run, None if step == _LATEST else int(step))


PAGE = Page(path="/layers", title="Layers", sign="▤", layout=layout, register=register)
