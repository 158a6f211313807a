"""The frame around every page: header, navigation, freshness, keys."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html, no_update
from dash.dependencies import ALL
from dash.exceptions import PreventUpdate

from qprobe.dashboard.attributes import aria, data
from qprobe.dashboard.clientside import clientside
from qprobe.dashboard.context import Context, Page
from qprobe.dashboard.library import Library
from qprobe.dashboard.pulse import pulse_of
from qprobe.dashboard.theme import MANTINE

POLL_MS = 2000
#: What :func:`chosen` fills.
CHOSEN = (
    Output("chosen", "data"),
    Output("choose-run", "data"),
    Output("choose-run", "value"),
    Output("choose-baseline", "data"),
    Output("choose-baseline", "value"),
)
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
            html.Div([*_choices(), html.Div(id="neighbours", className="line")],
                     className="header-controls"),
            html.Div(id="freshness", className="freshness", role="status"),
            html.Button("pause", id="pause", type="button", className="export"),
            html.Button("?", id="keys", type="button", className="export",
                        **aria(label="keys")),
            toggle,
        ],
        h="100%",
        px="md",
        gap="sm",
        className="bar",
    )  # fmt: skip
    frame = dmc.AppShell(
        [
            dmc.AppShellHeader(bar),
            dmc.AppShellNavbar(html.Nav(id="navigation", **aria(label="pages")), p="sm"),
            dmc.AppShellMain([html.Div(id="notice"), html.Div(id="page", tabIndex=-1)]),
        ],
        id="frame",
        header={"height": {"base": 100, "sm": 56}},
        navbar={"width": 190, "breakpoint": "sm", "collapsed": {"mobile": True}},
        padding="md",
    )
    return dmc.MantineProvider(
        [
            dcc.Location(id="address", refresh=False),
            dcc.Interval(id="clock", interval=POLL_MS),
            dcc.Store(id="tick"),
            dcc.Store(id="pulse"),
            dcc.Store(id="newest"),
            dcc.Store(id="look"),
            dcc.Store(id="asked"),
            dcc.Store(id="chosen"),
            dmc.Modal(_keys(), id="keys-shown", title="Keys"),
            frame,
        ],
        theme=MANTINE,
        defaultColorScheme="auto",
    )


def _choices() -> list[dmc.Select]:
    """The run that is looked at and the one it is compared with; :func:`chosen` fills them."""
    return [
        dmc.Select(
            id=f"choose-{name}",
            data=[],
            value=None,
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
        for name, hint, sign, label in (
            ("run", "no run", "◉", "run"),
            ("baseline", "pin a baseline", "⚲", "baseline run"),
        )
    ]


def chosen(context: Context, before: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """What could be chosen and what is, for both choices; nothing where it is as it was."""
    names = [run.name for run in context.runs]
    run, baseline = context.run, context.baseline
    now = {
        "run": run.name if run else None,
        "baseline": baseline.name if baseline else None,
        "among": hashlib.sha256("\n".join(names).encode()).hexdigest(),
    }
    if now == before:
        return (no_update,) * len(CHOSEN)
    options = [{"value": name, "label": name} for name in names]
    return now, options, now["run"], options, now["baseline"]


def neighbours(context: Context, path: str) -> list[Any]:
    """The runs before and after this one; the keys [ and ] follow these links."""
    run, names = context.run, [run.name for run in context.runs]
    if run is None:
        return []
    place, links = names.index(run.name), []
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

    clientside(app, "again", Input("pulse", "data"))
    # The page counts the seconds itself, and asks less often while nothing changes or nobody looks.
    clientside(app, "tick", Output("tick", "data"), Input("clock", "n_intervals"), at_once=True)
    clientside(app, "told", Output("freshness", "children"), Input("clock", "n_intervals"),
               Input("newest", "data"), at_once=True)  # fmt: skip

    @app.callback(
        Output("pulse", "data"),
        Output("newest", "data"),
        Input("tick", "data"),
        State("pulse", "data"),
        prevent_initial_call=True,
    )
    def beat(_: float, before: str | None) -> tuple[str, float | None]:
        runs = library.runs()
        pulse = pulse_of(runs)
        if pulse == before:
            raise PreventUpdate  # an answer without a body, after which nothing is drawn
        newest = max((run.changed_s for run in runs), default=None)
        # Seconds ago, not a time of day: another machine has another clock.
        return pulse, None if newest is None else max(0.0, time.time() - newest)

    clientside(app, "remember", Input({"control": ALL, "page": ALL}, "value"))
    for name in ("run", "baseline"):
        clientside(app, f"open_{name}", Input(f"choose-{name}", "value"), State("chosen", "data"))
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
