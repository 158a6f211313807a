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
from qprobe.dashboard.family import detail_of, family, table_of
from qprobe.dashboard.figures import layer as figures
from qprobe.dashboard.figures.frame import empty
from qprobe.dashboard.findings import finding_card
from qprobe.dashboard.layer_detail import LayerDetail, Magnitudes
from qprobe.dashboard.layer_table import LayerTable
from qprobe.dashboard.library import Library, Run
from qprobe.dashboard.measures import Measure
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
    table = table_of(context.library, run)
    site = context.query.text("layer") or _worst(run, table)
    detail = detail_of(context.library, run, site) if site else None
    if detail is None or not (detail.series or detail.magnitudes):
        return _absent(context, run, site)
    about = dmc.Group([html.Code(site, className="mono"), *_neighbours(context, run, table, site)])
    return html.Div(
        [
            html.Div([dmc.Title("Layer", order=1, size="h2"), about], className="page-title"),
            _findings(context, run, site),
            _controls(context.query, detail),
            html.Div(_cards(detail), className="two"),
            _over_time(detail),
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
    """The layer of the gravest finding, else the one that the Layers page has first."""
    known = set(table.sites)
    named = [site for finding in run.findings for site in finding.sites if site in known]
    return next(iter([*named, *table.worst_first]), "")


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
    order = table.worst_first
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
    runs = family(context.library, run)
    found = [(one, each) for one in runs for each in one.findings if site in each.sites]
    if not found:
        return None
    return card("Findings", *[finding_card(context, one, each) for one, each in found])


def _controls(query: Query, detail: LayerDetail) -> html.Div:
    roles = list(detail.magnitudes) or [role for role in detail.roles if role]
    measures = [Measure.of(column).name for column in detail.series if not _HEAD.match(column.key)]
    first = _first(detail)
    heads = sorted({_HEAD.sub("", column.key) for column in detail.series
                    if _HEAD.match(column.key)})  # fmt: skip
    measures.sort()
    course = any(len(series) > 1 for series in detail.series.values())
    role = select("layer", "role", "Tensor", roles,
                  query.choice("role", roles, roles[0] if roles else None))  # fmt: skip
    measure = select("layer", "measure", "Measure over the steps", measures,
                     query.choice("measure", measures, first))  # fmt: skip
    head = select("layer", "head", "Measure of the heads", heads,
                  query.choice("head", heads, heads[0] if heads else None))  # fmt: skip
    parts = ((role, any(roles)), (measure, course), (head, bool(heads)))
    return html.Div(
        [html.Div(part, style={} if there else {"display": "none"}) for part, there in parts],
        className="controls",
    )


def _first(detail: LayerDetail) -> str | None:
    """The most telling measure that has a course; of those with a single value the most telling."""
    known = {
        Measure.of(column): len(series) > 1
        for column, series in detail.series.items()
        if not _HEAD.match(column.key)
    }
    order = sorted(known, key=lambda one: (not known[one], one.is_neutral, one.priority))
    return order[0].name if order else None


def _cards(detail: LayerDetail) -> list[Any]:
    found = []
    if detail.magnitudes:
        found.append(
            card("Values on the 4-bit grid", html.Div(id="layer-counts", className="note"),
                 chart("layer-histogram", "magnitudes of the values", 320))
        )  # fmt: skip
    if any(_is_kurtosis(column) for column in detail.series):
        found.append(
            card("Where the outliers are", chart("layer-kurtosis", "kurtosis by axis", 320),
                 note="High per channel: a few loud channels. High per token or voxel: a few loud "
                 "places.")
        )  # fmt: skip
    if any(column.key.endswith("sqnr_db") for column in detail.series):
        found.append(
            card("What each product loses", chart("layer-operands", "error of each operand", 320),
                 note="fprop: forward. dgrad, wgrad: gradients of input and weight. x: input, w: "
                 "weight, dy: gradient of the output.")
        )  # fmt: skip
    return found


def _over_time(detail: LayerDetail) -> Any:
    drawn = card("Over the training", chart("layer-time", "a measure over the steps", 320))
    # An analysis measures once: there is nothing to draw, and the table below has the values.
    shown = any(len(series) > 1 for series in detail.series.values())
    return html.Div(drawn, style={} if shown else {"display": "none"})


def _heads(detail: LayerDetail) -> Any:
    if not any(_HEAD.match(column.key) for column in detail.series):
        return None
    return card("Heads", chart("layer-heads", "a measure of every head", 320))


def _rows(table: LayerTable, detail: LayerDetail, site: str) -> list[dict[str, Any]]:
    shares = table.shares if site in table.sites else None
    place = table.sites.index(site) if shares is not None else 0
    rows = []
    series_of = {Measure.of(column): series for column, series in detail.series.items()}
    for measure in sorted(series_of, key=lambda one: (one.is_neutral, one.priority)):
        column, series = measure, series_of[measure]
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
        detail_of(library, run, names["layer"]) if run is not None else None
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
        return figures.histogram(found, other, dark=look == "dark"), _counted(found)

    @app.callback(
        Output("layer-kurtosis", "figure"),
        Input(control("layer", "role"), "value"),
        _SHOWN,
        _SCHEME,
    )
    def kurtosis(role: str, names: dict[str, str], look: str) -> Any:
        ours, _ = _details(library, names)
        values = {
            column.key: float(series.values[-1])
            for column, series in ours.series.items()
            if _is_kurtosis(column) and column.role == role
        }
        return figures.kurtosis(values, dark=look == "dark")

    @app.callback(Output("layer-operands", "figure"), _SHOWN, _SCHEME)
    def operands(names: dict[str, str], look: str) -> Any:
        ours, _ = _details(library, names)
        return figures.operands(*_errors(ours), dark=look == "dark")


def _counted(found: Magnitudes) -> str:
    counts = (("zero", found.zero), ("NaN", found.nan), ("inf", found.infinite))
    told = ", ".join(f"{count:,} {word}" for word, count in counts if count is not None)
    return f"step {found.step}{'; ' if told else ''}{told}"


def _is_kurtosis(column: Column) -> bool:
    return column.probe == "moments" and "kurtosis_" in column.key


def _errors(detail: LayerDetail) -> tuple[dict[str, float], dict[str, float]]:
    """SQNR of operands (``fprop.x``) and of whole tensors in a format (``nvfp4 input``)."""
    products, tensors = {}, {}
    for column, series in detail.series.items():
        stem, _, end = column.key.rpartition(".")
        if end != "sqnr_db" or column.probe not in ("operand_error", "four_bit"):
            continue
        value = float(series.values[-1])
        if column.probe == "operand_error":
            products[stem] = value
        else:
            tensors[f"{stem} {column.role.replace('_', ' ')}"] = value
    return dict(sorted(products.items(), key=_by_product)), dict(sorted(tensors.items()))


def _by_product(one: tuple[str, float]) -> tuple[int, str]:
    product = one[0].partition(".")[0]
    known = ("fprop", "dgrad", "wgrad")
    return known.index(product) if product in known else len(known), one[0]


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


def _named(detail: LayerDetail, name: str | None) -> dict[Column, Series]:
    return {
        column: series
        for column, series in detail.series.items()
        if Measure.of(column).name == name
    }


PAGE = Page(path="/layer", title="Layer", sign="▣", layout=layout, register=register)
