"""The frame around every page: header, navigation, freshness, keys."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, html, no_update
from dash.dependencies import ALL

from qprobe.dashboard.attributes import aria, data
from qprobe.dashboard.clientside import clientside
from qprobe.dashboard.components import WHEN_OPENED
from qprobe.dashboard.context import Context, Page
from qprobe.dashboard.theme import MANTINE

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
    "r": "update now",
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
            html.Button("↻", id="refresh", type="button", className="export", title="update now",
                        **aria(label="update now")),
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
            dcc.Store(id="pulse"),
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
            comboboxProps=WHEN_OPENED,
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
                    **data(go="true", run=word, name=names[other]),
                    **aria(label=f"{word} run"),
                )
            )
    return links


def navigation(context: Context, pages: Sequence[Page], here: Page | None) -> list[Any]:
    """Links to the pages, about the same runs."""
    return [
        html.A(
            page.title,
            href=context.link(page.path),
            className="nav",
            **data(go="true", sign=page.sign),
            **(aria(current="page") if page is here else {}),
        )
        for page in pages
    ]


def register(app: Dash) -> None:
    """Addresses, theme and keys; ``assets/follow.js`` sets the pulse."""
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

    clientside(app, "arrived", Input("page", "children"), State("chosen", "data"))
    clientside(app, "again", Input("pulse", "data"))
    clientside(app, "remember", Input({"control": ALL, "page": ALL}, "value"))
    for name in ("run", "baseline"):
        clientside(app, f"open_{name}", Input(f"choose-{name}", "value"), State("chosen", "data"))
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
