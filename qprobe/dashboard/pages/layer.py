"""Layer: everything about one layer, and what to do about it."""

import re
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, dcc, html

from qprobe.dashboard.attributes import data
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
from qprobe.dashboard.figures import layer as figures
from qprobe.dashboard.figures.frame import empty
from qprobe.dashboard.findings import finding_card
from qprobe.dashboard.layer_detail import LayerDetail, layer_detail
from qprobe.dashboard.layer_table import LayerTable, Measure, layer_table, worst_first
from qprobe.dashboard.library import Library, Run
from qprobe.dashboard.numerals import plain
from qprobe.dashboard.pages.layers import nothing_to_show
from qprobe.dashboard.query import Query
from qprobe.records import Column, Series

_HEAD = re.compile(r"^head\d+\.")


def layout(context: Context) -> Any:
    """Findings first, then the charts."""
    run = context.run
    if run is None:
        return nothing_to_show(context)
    table = context.library.answer(run, layer_table)
    site = context.query.text("layer") or _worst(run, table)
    detail = context.library.answer(run, layer_detail, site) if site else None
    if detail is None or not (detail.series or detail.magnitudes):
        return _absent(context, run, site)
    about = dmc.Group([html.Code(site, className="mono"), *_neighbours(context, run, table, site)])
    return html.Div(
        [
            html.Div([dmc.Title("Layer", order=1, size="h2"), about], className="page-title"),
            _findings(context, run, site),
            _controls(context.query, detail, table, site),
            html.Div(_cards(detail), className="two"),
            card("Over the training", chart("layer-time", "a measure over the steps", 320)),
            _heads(detail),
            card("Every measure", grid("layer-all", "measures of this layer", _COLUMNS,
                                       rows=_rows(table, detail, site), height=380)),
            dcc.Store(id="layer-shown", data=_shown(context, run, site)),
        ]
    )  # fmt: skip


_COLUMNS = (
    {"field": "key", "headerName": "measure", "flex": 2, "cellClass": "mono"},
    {"field": "role", "headerName": "tensor", "flex": 1},
    {"field": "probe", "headerName": "probe", "flex": 1},
    {"field": "m0", "headerName": "last value", "type": "numericColumn", "width": 130,
     "valueFormatter": {"function": "measured(params)"}, "cellStyle": {"function": "heat(params)"}},
    {"field": "rank", "headerName": "rank among layers", "flex": 1},
    {"field": "step", "headerName": "step", "type": "numericColumn", "width": 90},
)  # fmt: skip


def _shown(context: Context, run: Run, site: str) -> dict[str, str]:
    baseline = context.baseline
    return {"run": run.name, "baseline": baseline.name if baseline else "", "layer": site}


def _worst(run: Run, table: LayerTable) -> str:
    """The layer of the gravest finding, else the first that was measured."""
    known = set(table.sites)
    named = [site for finding in run.findings for site in finding.sites if site in known]
    return next(iter([*named, *table.sites]), "")


def _absent(context: Context, run: Run, site: str) -> Any:
    found = _findings(context, run, site)
    return html.Div(
        [
            page_title("Layer", site or run.name),
            found,
            empty_state(
                "Nothing was measured of this layer." if site else "This run has no layers.",
                f"{run.name} has no record of it; an analysis of the checkpoint makes them.",
                f"qprobe analyze {run.path.parent / 'best.pt'}",
            ),
        ]
    )


def _neighbours(context: Context, run: Run, table: LayerTable, site: str) -> list[Any]:
    """The layers before and after this one, from the worst on; keys j and k follow the links."""
    order = worst_first(table)
    if site not in order:
        return []
    place, links = order.index(site), []
    for word, text, other in (
        ("previous", "← worse", place - 1), ("next", "less bad →", place + 1),
    ):  # fmt: skip
        if 0 <= other < len(order):
            href = context.link("/layer", run=run.name, layer=order[other])
            links.append(html.A(text, href=href, title=order[other],
                                **data(go="true", failing=word)))  # fmt: skip
    links.append(dmc.Text(f"{place + 1} of {len(order)}, 1 is the worst", className="note"))
    return links


def _findings(context: Context, run: Run, site: str) -> Any:
    runs = [run, *context.library.analyses(run)]
    found = [(one, each) for one in runs for each in one.findings if site in each.sites]
    if not found:
        return None
    return card("Findings", *[finding_card(context, one, each) for one, each in found])


def _controls(query: Query, detail: LayerDetail, table: LayerTable, site: str) -> html.Div:
    roles = list(detail.magnitudes) or detail.roles
    measures = [Measure.of(column).name for column in detail.series if not _HEAD.match(column.key)]
    first = _first(table, site, measures)
    heads = sorted({_HEAD.sub("", column.key) for column in detail.series
                    if _HEAD.match(column.key)})  # fmt: skip
    controls = [
        select("layer", "role", "Tensor of the histogram", roles,
               query.choice("role", roles, roles[0] if roles else None)),
        select("layer", "measure", "Measure over the steps", measures,
               query.choice("measure", measures, first)),
    ]  # fmt: skip
    head = select("layer", "head", "Measure of the heads", heads,
                  query.choice("head", heads, heads[0] if heads else None))  # fmt: skip
    hidden = {} if heads else {"display": "none"}
    return html.Div([*controls, html.Div(head, style=hidden)], className="controls")


def _first(table: LayerTable, site: str, measures: list[str]) -> str | None:
    names = [measure.name for measure in table.telling(1)] if site in table.sites else []
    return next((name for name in names if name in measures), measures[0] if measures else None)


def _cards(detail: LayerDetail) -> list[Any]:
    found = []
    if detail.magnitudes:
        found.append(
            card("Values on the 4-bit grid", html.Div(id="layer-counts", className="note"),
                 chart("layer-histogram", "magnitudes of the values", 320))
        )  # fmt: skip
    if any("kurtosis_" in column.key for column in detail.series):
        found.append(
            card("Where the outliers are", chart("layer-kurtosis", "kurtosis by axis", 320),
                 note="High per channel: a few loud channels. High per token or voxel: a few loud "
                 "places.")
        )  # fmt: skip
    if any(column.key.endswith("sqnr_db") for column in detail.series):
        found.append(
            card("What each product loses", chart("layer-operands", "error of each operand", 320),
                 note="fprop: forward. dgrad, wgrad: gradients of input and weight.")
        )  # fmt: skip
    return found


def _heads(detail: LayerDetail) -> Any:
    if not any(_HEAD.match(column.key) for column in detail.series):
        return None
    return card("Heads", chart("layer-heads", "a measure of every head", 320))


def _rows(table: LayerTable, detail: LayerDetail, site: str) -> list[dict[str, Any]]:
    shares = table.shares() if site in table.sites else None
    place = table.sites.index(site) if shares is not None else 0
    rows = []
    for column, series in detail.series.items():
        measure = Measure.of(column)
        value = float(series.values[-1])
        row: dict[str, Any] = {
            "key": column.key, "role": column.role, "probe": column.probe,
            "step": int(series.steps[-1]), "m0": value if abs(value) < float("inf") else None,
        }  # fmt: skip
        if row["m0"] is None:
            row["t0"] = plain(value)
        if shares is not None and measure in table.measures and not measure.is_neutral:
            at = table.measures.index(measure)
            count = int(table.there[:, at].sum())
            row["r0"] = round(float(shares[place, at]), 3)
            row["rank"] = f"{1 + round((1 - shares[place, at]) * (count - 1))} of {count}"
        rows.append(row)
    return rows


_SHOWN = Input("layer-shown", "data")
_SCHEME = Input("look", "data")


def register(app: Dash, library: Library) -> None:
    """Each chart by itself, since a layer need not have all of them."""
    _register_values(app, library)
    _register_series(app, library)


def _details(library: Library, names: dict[str, str]) -> tuple[LayerDetail, LayerDetail | None]:
    """Of the run, and of the baseline where one is pinned."""
    found = [
        library.answer(run, layer_detail, names["layer"]) if run is not None else None
        for run in (library.run(names["run"]), library.run(names["baseline"]))
    ]
    return found[0] or LayerDetail(series={}, magnitudes={}), found[1]


def _register_values(app: Dash, library: Library) -> None:
    @app.callback(
        Output("layer-histogram", "figure"),
        Output("layer-counts", "children"),
        Input(control("layer", "role"), "value"),
        _SHOWN,
        _SCHEME,
    )
    def histogram(role: str, names: dict[str, str], look: str) -> tuple[Any, str]:
        ours, theirs = _details(library, names)
        found = ours.magnitudes.get(role)
        if found is None:
            return empty("No histogram was recorded.", dark=look == "dark"), ""
        other = theirs.magnitudes.get(role) if theirs else None
        told = f"step {found.step}; {found.zero:,} zero, {found.nan:,} NaN, {found.infinite:,} inf"
        return figures.histogram(found, other, dark=look == "dark"), told

    @app.callback(Output("layer-kurtosis", "figure"), _SHOWN, _SCHEME)
    def kurtosis(names: dict[str, str], look: str) -> Any:
        ours, _ = _details(library, names)
        return figures.kurtosis(_last(ours, "kurtosis_"), dark=look == "dark")

    @app.callback(Output("layer-operands", "figure"), _SHOWN, _SCHEME)
    def operands(names: dict[str, str], look: str) -> Any:
        ours, _ = _details(library, names)
        return figures.operands(_last(ours, "sqnr_db"), dark=look == "dark")


def _register_series(app: Dash, library: Library) -> None:
    @app.callback(
        Output("layer-time", "figure"),
        Input(control("layer", "measure"), "value"),
        _SHOWN,
        _SCHEME,
    )
    def over_time(name: str, names: dict[str, str], look: str) -> Any:
        ours, theirs = _details(library, names)
        lines = [("this run", one) for one in _named(ours, name).values()]
        if theirs is not None:
            lines += [("baseline", one) for one in _named(theirs, name).values()]
        return figures.over_time(lines, name or "", dark=look == "dark")

    @app.callback(
        Output("layer-heads", "figure"), Input(control("layer", "head"), "value"), _SHOWN, _SCHEME
    )
    def heads(key: str, names: dict[str, str], look: str) -> Any:
        ours, _ = _details(library, names)
        chosen = {
            column: series
            for column, series in ours.series.items()
            if _HEAD.match(column.key) and _HEAD.sub("", column.key) == key
        }
        return figures.heads(chosen, key or "", dark=look == "dark")


def _last(detail: LayerDetail, part: str) -> dict[str, float]:
    return {
        column.key: float(series.values[-1])
        for column, series in detail.series.items()
        if part in column.key
    }


def _named(detail: LayerDetail, name: str | None) -> dict[Column, Series]:
    return {
        column: series
        for column, series in detail.series.items()
        if Measure.of(column).name == name
    }


PAGE = Page(path="/layer", title="Layer", sign="▣", layout=layout, register=register)
