"""The frame around every page: header, navigation, freshness, keys."""

import time
from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html, no_update
from dash.dependencies import ALL

from qprobe.dashboard.attributes import aria, data
from qprobe.dashboard.clientside import clientside
from qprobe.dashboard.context import Context, Page
from qprobe.dashboard.library import Library
from qprobe.dashboard.numerals import ago
from qprobe.dashboard.theme import MANTINE

POLL_MS = 2000
_KEYS = {
    "/": "filter",
    "j k": "next and previous failing layer",
    "[ ]": "previous and next run",
    "d": "light or dark",
    "?": "these keys",
}


def layout(title: str) -> dmc.MantineProvider:
    """What stays while pages change."""
    toggle = dmc.ColorSchemeToggle(
        id="scheme",
        lightIcon=html.Span("☾", **aria(hidden="true")),
        darkIcon=html.Span("☀", **aria(hidden="true")),
        variant="default",
        size="lg",
        **aria(label="light or dark"),
    )
    bar = dmc.Group(
        [
            html.A("skip to content", href="#page", className="skip"),
            dmc.Burger(id="burger", size="sm", hiddenFrom="sm", **aria(label="navigation")),
            html.Span([html.Span(className="mark", **aria(hidden="true")), title],
                      className="brand"),
            html.Div(id="header", className="header-controls"),
            html.Div(id="freshness", className="freshness", role="status"),
            html.Button("pause", id="pause", type="button", className="export"),
            html.Button("?", id="keys", type="button", className="export",
                        **aria(label="keys")),
            toggle,
        ],
        h="100%",
        px="md",
        wrap="nowrap",
        gap="sm",
    )  # fmt: skip
    frame = dmc.AppShell(
        [
            dmc.AppShellHeader(bar),
            dmc.AppShellNavbar(html.Nav(id="navigation", **aria(label="pages")), p="sm"),
            dmc.AppShellMain([html.Div(id="notice"), html.Div(id="page", tabIndex=-1)]),
        ],
        id="frame",
        header={"height": 56},
        navbar={"width": 190, "breakpoint": "sm", "collapsed": {"mobile": True}},
        padding="md",
    )
    return dmc.MantineProvider(
        [
            dcc.Location(id="address", refresh=False),
            dcc.Interval(id="clock", interval=POLL_MS),
            dcc.Store(id="pulse"),
            dcc.Store(id="look"),
            dcc.Store(id="asked"),
            dmc.Modal(_keys(), id="keys-shown", title="Keys"),
            frame,
        ],
        theme=MANTINE,
        defaultColorScheme="auto",
    )


def header(context: Context, path: str) -> list[Any]:
    """The run that is looked at and the one it is compared with."""
    names = [run.name for run in context.runs]
    options = [{"value": name, "label": name} for name in names]
    run, baseline = context.run, context.baseline
    choices = [
        dmc.Select(
            id=f"choose-{name}",
            data=options,
            value=None if chosen is None else chosen.name,
            placeholder=hint,
            searchable=True,
            clearable=name == "baseline",
            allowDeselect=name == "baseline",
            limit=200,
            size="sm",
            className="choose",
            leftSection=html.Span(sign, **aria(hidden="true")),
            **aria(label=label),
        )
        for name, chosen, hint, sign, label in (
            ("run", run, "no run", "◉", "run"),
            ("baseline", baseline, "pin a baseline", "⚲", "baseline run"),
        )
    ]
    return [*choices, *_neighbours(context, path, names, run.name if run else "")]


def _neighbours(context: Context, path: str, names: list[str], here: str) -> list[Any]:
    """The runs before and after this one; the keys [ and ] follow these links."""
    if here not in names:
        return []
    place, links = names.index(here), []
    for word, sign, other in (("previous", "‹", place - 1), ("next", "›", place + 1)):
        if 0 <= other < len(names):
            links.append(
                html.A(
                    sign,
                    href=context.link(path, run=names[other]),
                    title=names[other],
                    className="export step",
                    **data(go="true", run=word),
                    **aria(label=f"{word} run"),
                )
            )
    return links


def navigation(context: Context, pages: Sequence[Page], here: Page | None) -> list[Any]:
    """Links to the pages, about the same runs."""
    return [
        dcc.Link(
            [html.Span(page.sign, className="sign", **aria(hidden="true")), page.title],
            href=context.link(page.path),
            className="nav is-here" if page is here else "nav",
        )
        for page in pages
    ]


def register(app: Dash, library: Library) -> None:
    """Addresses, freshness, theme and keys."""
    clientside(app, "look", Output("look", "data"), Input("scheme", "id"), at_once=True)
    # With the colours, so that a page comes with its charts and is not asked for them again.
    clientside(
        app,
        "ask",
        Output("asked", "data"),
        Input("address", "pathname"),
        Input("address", "search"),
        at_once=True,
    )

    @app.callback(
        Output("freshness", "children"),
        Output("pulse", "data"),
        Input("clock", "n_intervals"),
        State("pulse", "data"),
    )
    def beat(_: int | None, before: str | None) -> tuple[Any, Any]:
        runs = library.runs()
        pulse = str(hash(tuple((run.name, run.stamp, run.status) for run in runs)))
        newest = max((run.changed_s for run in runs), default=None)
        told = "no runs yet" if newest is None else f"updated {ago(newest, time.time())}"
        return told, pulse if pulse != before else no_update

    clientside(app, "remember", Input({"control": ALL, "page": ALL}, "value"))
    for name in ("run", "baseline"):
        clientside(app, f"open_{name}", Input(f"choose-{name}", "value"))
    clientside(
        app,
        "pause",
        Output("clock", "disabled"),
        Output("pause", "children"),
        Input("pause", "n_clicks"),
        State("clock", "disabled"),
    )
    clientside(
        app,
        "toggle",
        Output("keys-shown", "opened"),
        Input("keys", "n_clicks"),
        State("keys-shown", "opened"),
    )
    clientside(
        app,
        "navbar",
        Output("frame", "navbar"),
        Input("burger", "opened"),
        State("frame", "navbar"),
    )


def _keys() -> dmc.Table:
    rows = [
        dmc.TableTr([dmc.TableTd(dmc.Kbd(key)), dmc.TableTd(what)]) for key, what in _KEYS.items()
    ]
    return dmc.Table(dmc.TableTbody(rows))
