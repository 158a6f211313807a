"""Layer: everything about one layer, and what to do about it."""

from typing import Any, NamedTuple, TypeAlias

from dash import Dash, Input, Output, State, dcc, html

from qprobe.dashboard import layer_charts as charts
from qprobe.dashboard.attributes import data
from qprobe.dashboard.clientside import build_later
from qprobe.dashboard.components import (
    card,
    chart,
    control,
    empty_state,
    grid,
    later,
    page_title,
    select,
)
from qprobe.dashboard.context import Context, Page
from qprobe.dashboard.family import detail_of, family, first_of, table_of
from qprobe.dashboard.figures.map_pair import caption, pair
from qprobe.dashboard.findings import finding_card
from qprobe.dashboard.findings_order import told_once
from qprobe.dashboard.layer_detail import LayerDetail
from qprobe.dashboard.layer_table import LayerTable
from qprobe.dashboard.library import Library, Run
from qprobe.dashboard.measures import Measure
from qprobe.dashboard.numerals import plain
from qprobe.dashboard.pages.layers import nothing_to_show
from qprobe.dashboard.query import Query
from qprobe.dashboard.sampled_maps import WORDS, latest
from qprobe.errors import InputError

_Details: TypeAlias = tuple[LayerDetail, LayerDetail | None]


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
    name = html.Code(site, className="mono")
    about = html.Div([name, *_neighbours(context, run, table, site)], className="line")
    names = _shown(context, run, site)
    theirs = _details(context.library, names)[1]
    chosen = _chosen(context.query, detail)
    return html.Div(
        [
            html.Div([html.H1("Layer"), about], className="page-title"),
            _findings(context, run, site),
            _controls(detail, chosen),
            html.Div(_cards((detail, theirs), chosen.role, dark=context.dark), className="two"),
            _over_time((detail, theirs), chosen.measure, dark=context.dark),
            _heads(detail, chosen.head, dark=context.dark),
            *_maps(context, run, site),
            card("Every measure", later("layer-table", _TABLE)),
            dcc.Store(id="layer-shown", data=names),
        ]
    )


#: Pixels of the table of every measure.
_TABLE = 380
_COLUMNS = (
    {"field": "key", "headerName": "measure", "flex": 2, "minWidth": 170, "cellClass": "mono",
     "tooltipField": "key"},
    {"field": "role", "headerName": "tensor", "flex": 1, "minWidth": 100},
    {"field": "probe", "headerName": "probe", "flex": 1, "minWidth": 110},
    {"field": "m0", "headerName": "last value", "type": "numericColumn", "width": 130,
     "valueFormatter": {"function": "measured(params)"}, "cellStyle": {"function": "heat(params)"}},
    {"field": "rank", "headerName": "rank among layers", "flex": 1, "minWidth": 150},
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
    links: list[Any] = []
    place = order.index(site)
    for word, text, other in (
        ("previous", "← worse", place - 1), ("next", "less bad →", place + 1),
    ):  # fmt: skip
        if 0 <= other < len(order):
            href = context.link("/layer", run=run.name, layer=order[other])
            links.append(html.A(text, href=href, title=order[other],
                                **data(go="true", failing=word)))  # fmt: skip
    links.append(html.Span(f"{place + 1} of {len(order)}, 1 is the worst", className="note"))
    return links


def _findings(context: Context, run: Run, site: str) -> Any:
    runs = family(context.library, run)
    found = [(one, each) for one in runs for each in one.findings if site in each.sites]
    if not found:
        return None
    once = told_once(found, one_training=True)
    return card("Findings", *[finding_card(context, told) for told in once])


class _Chosen(NamedTuple):
    """The values of the controls, and what else could be chosen."""

    role: str | None
    measure: str | None
    head: str | None
    roles: list[str]
    measures: list[str]
    heads: list[str]


def _chosen(query: Query, detail: LayerDetail) -> _Chosen:
    roles = list(detail.magnitudes) or [role for role in detail.roles if role]
    keys = [column.key for column in detail.series]
    measures = sorted(Measure.of(column).name for column in detail.series
                      if not charts.HEAD.match(column.key))  # fmt: skip
    heads = sorted({charts.HEAD.sub("", key) for key in keys if charts.HEAD.match(key)})
    return _Chosen(
        role=query.choice("role", roles, roles[0] if roles else None),
        measure=query.choice("measure", measures, _first(detail)),
        head=query.choice("head", heads, heads[0] if heads else None),
        roles=roles,
        measures=measures,
        heads=heads,
    )


def _controls(detail: LayerDetail, chosen: _Chosen) -> html.Div:
    """Only what this layer has a choice of: each costs as much as a small chart."""
    found = []
    if detail.magnitudes or any(charts.is_kurtosis(column) for column in detail.series):
        found.append(select("layer", "role", "Tensor", chosen.roles, chosen.role))
    if _has_course(detail):
        label = "Measure over the steps"
        found.append(select("layer", "measure", label, chosen.measures, chosen.measure))
    if chosen.heads:
        found.append(select("layer", "head", "Measure of the heads", chosen.heads, chosen.head))
    return html.Div(found, className="controls")


def _has_course(detail: LayerDetail) -> bool:
    """An analysis measures once: there is nothing to draw, and the table has the values."""
    return any(len(series) > 1 for series in detail.series.values())


def _first(detail: LayerDetail) -> str | None:
    """The most telling measure that has a course; of those with a single value the most telling."""
    known = {
        Measure.of(column): len(series) > 1
        for column, series in detail.series.items()
        if not charts.HEAD.match(column.key)
    }
    order = sorted(known, key=lambda one: (not known[one], one.is_neutral, one.priority))
    return order[0].name if order else None


def _cards(details: _Details, role: str | None, *, dark: bool) -> list[Any]:
    found, (detail, _) = [], details
    if detail.magnitudes:
        drawn, counts = charts.histogram(*details, role, dark=dark)
        found.append(
            card("Values on the 4-bit grid",
                 html.Div(counts, id="layer-counts", className="note"),
                 chart("layer-histogram", "magnitudes of the values", 320, drawn))
        )  # fmt: skip
    if any(charts.is_kurtosis(column) for column in detail.series):
        drawn = charts.kurtosis(detail, role, dark=dark)
        found.append(
            card("Where the outliers are", chart("layer-kurtosis", "kurtosis by axis", 320, drawn),
                 note="High per channel: a few loud channels. High per token or voxel: a few loud "
                 "places.")
        )  # fmt: skip
    if charts.has_operands(detail):
        drawn = charts.operands(detail, dark=dark)
        found.append(
            card("What each product loses",
                 chart("layer-operands", "error of each operand", 320, drawn),
                 note="fprop: forward. dgrad, wgrad: gradients of input and weight. x: input, w: "
                 "weight, dy: gradient of the output.")
        )  # fmt: skip
    return found


def _over_time(details: _Details, measure: str | None, *, dark: bool) -> Any:
    if not _has_course(details[0]):
        return None
    drawn = charts.over_time(*details, measure, dark=dark)
    return card("Over the training", chart("layer-time", "a measure over the steps", 320, drawn))


def _heads(detail: LayerDetail, key: str | None, *, dark: bool) -> Any:
    if key is None:
        return None
    drawn = charts.heads(detail, key, dark=dark)
    return card("Heads", chart("layer-heads", "a measure of every head", 320, drawn, is_map=True))


def _maps(context: Context, run: Run, site: str) -> list[Any]:
    """Logits and probabilities of an attention, before and under the recipe, where kept."""
    found = [
        (word, held[1])
        for role, word in WORDS.items()
        if (held := first_of(context.library, run, latest, site, role)) is not None
    ]
    return [
        card(f"Sampled {word}", html.Div(caption(one), className="note"),
             chart(f"layer-{word}", f"{word} before and under the recipe", 380,
                   pair(one, dark=context.dark), is_map=True))
        for word, one in found
    ]  # fmt: skip


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


def register(app: Dash, library: Library) -> None:
    """A chart comes with the page and is drawn again when its control or the colours change."""
    _register_values(app, library)
    _register_series(app, library)
    _register_maps(app, library)
    _register_table(app, library)


def _details(library: Library, names: dict[str, str]) -> _Details:
    """Of the run, and of the baseline where one is pinned."""
    found = [
        detail_of(library, run, names["layer"]) if run is not None else None
        for run in (library.run(names["run"]), library.run(names["baseline"]))
    ]
    return found[0] or LayerDetail(series={}, magnitudes={}), found[1]


_SHOWN = State("layer-shown", "data")
_LOOK = Input("look", "data")


def _register_values(app: Dash, library: Library) -> None:
    role = Input(control("layer", "role"), "value")

    @app.callback(
        Output("layer-histogram", "figure"),
        Output("layer-counts", "children"),
        role,
        _LOOK,
        _SHOWN,
        prevent_initial_call=True,
    )
    def histogram(role: str, look: str, names: dict[str, str]) -> tuple[Any, str]:
        return charts.histogram(*_details(library, names), role, dark=look == "dark")

    @app.callback(
        Output("layer-kurtosis", "figure"), role, _LOOK, _SHOWN, prevent_initial_call=True
    )
    def kurtosis(role: str, look: str, names: dict[str, str]) -> Any:
        return charts.kurtosis(_details(library, names)[0], role, dark=look == "dark")

    @app.callback(Output("layer-operands", "figure"), _LOOK, _SHOWN, prevent_initial_call=True)
    def operands(look: str, names: dict[str, str]) -> Any:
        return charts.operands(_details(library, names)[0], dark=look == "dark")


def _register_series(app: Dash, library: Library) -> None:
    @app.callback(
        Output("layer-time", "figure"),
        Input(control("layer", "measure"), "value"),
        _LOOK,
        _SHOWN,
        prevent_initial_call=True,
    )
    def over_time(name: str, look: str, names: dict[str, str]) -> Any:
        return charts.over_time(*_details(library, names), name, dark=look == "dark")

    @app.callback(
        Output("layer-heads", "figure"),
        Input(control("layer", "head"), "value"),
        _LOOK,
        _SHOWN,
        prevent_initial_call=True,
    )
    def heads(key: str, look: str, names: dict[str, str]) -> Any:
        return charts.heads(_details(library, names)[0], key, dark=look == "dark")


def _register_maps(app: Dash, library: Library) -> None:
    for role, word in WORDS.items():

        @app.callback(Output(f"layer-{word}", "figure"), _LOOK, _SHOWN, prevent_initial_call=True)
        def draw(look: str, names: dict[str, str], role: str = role) -> Any:
            run = library.run(names["run"])
            held = first_of(library, run, latest, names["layer"], role) if run else None
            return pair(held[1] if held else None, dark=look == "dark")


def _register_table(app: Dash, library: Library) -> None:
    build_later(app, "layer-table")

    @app.callback(
        Output("layer-table", "children"),
        Input("layer-table-wanted", "data"),
        _SHOWN,
        prevent_initial_call=True,
    )
    def build(_: bool, names: dict[str, str]) -> Any:
        run = library.run(names["run"])
        if run is None:
            raise InputError(f"the run {names['run']!r} is gone; choose another one.")
        table, detail = table_of(library, run), _details(library, names)[0]
        rows = _rows(table, detail, names["layer"])
        return grid("layer-all", "measures of this layer", _COLUMNS, rows=rows, height=_TABLE)


PAGE = Page(path="/layer", title="Layer", sign="▣", layout=layout, register=register)
