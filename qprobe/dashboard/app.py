"""Puts the dashboard together: pages, the frame around them, the guard before them."""

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, set_props

from qprobe.dashboard import pulse, security, shell
from qprobe.dashboard.components import empty_state
from qprobe.dashboard.context import Context, Page
from qprobe.dashboard.library import Library
from qprobe.dashboard.pages import PAGES
from qprobe.dashboard.query import Query
from qprobe.dashboard.theme import INDEX
from qprobe.errors import InputError, QprobeError

_log = logging.getLogger(__name__)


def build(
    runs: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    title: str = "qprobe",
    base_path: str = "/",
    allow_hosts: Sequence[str] = (),
) -> Dash:
    """See :func:`qprobe.dashboard.create_app`."""
    if not (base_path.startswith("/") and base_path.endswith("/")):
        raise InputError(f"a base path starts and ends with '/', got {base_path!r}.")
    paths = [runs] if isinstance(runs, str | PathLike) else list(runs)
    library = Library([Path(path) for path in paths])
    app = Dash(
        __name__,
        title=title,
        update_title=None,  # type: ignore[arg-type]  # None is documented: the title stays
        index_string=INDEX,
        url_base_pathname=base_path,
        serve_locally=True,
        compress=False,
        enable_mcp=False,
        suppress_callback_exceptions=True,
        on_error=_failed,
    )
    app.layout = shell.layout(title)
    _route(app, library, base_path)
    shell.register(app)
    pulse.answer(app, library)
    for page in PAGES:
        page.register(app, library)
    security.install(app, app.server, allow_hosts)
    return app


def _route(app: Dash, library: Library, base_path: str) -> None:
    by_path = {page.path: page for page in PAGES}

    @app.callback(
        Output("page", "children"),
        Output("neighbours", "children"),
        Output("navigation", "children"),
        *shell.CHOSEN,
        Input("asked", "data"),
        State("chosen", "data"),
        prevent_initial_call=True,
    )
    def show(asked: Mapping[str, str], before: Mapping[str, Any] | None) -> tuple[Any, ...]:
        context = Context(
            library=library,
            query=Query.parse(asked["search"]),
            base_path=base_path,
            dark=asked["look"] == "dark",
        )
        path = "/" + asked["path"].removeprefix(base_path).strip("/")
        page = by_path.get(path)
        return (
            _content(page, path, context),
            shell.neighbours(context, path),
            shell.navigation(context, PAGES, page),
            *shell.chosen(context, before),
        )


def _content(page: Page | None, path: str, context: Context) -> Any:
    if page is None:
        return empty_state(f"There is no page {path}.", "Choose one at the left.")
    try:
        return page.layout(context)
    except QprobeError as error:
        # A run may be moved or damaged between the list and the page: say so in its place.
        return empty_state("This cannot be shown.", str(error))


def _failed(error: Exception) -> None:
    """One notice in the page and the traceback in the log, for whatever a callback raises."""
    _log.error("a callback failed", exc_info=error)
    told = str(error) if isinstance(error, QprobeError) else f"{type(error).__name__}: {error}"
    notice = dmc.Alert(told, title="This cannot be shown", color="red", withCloseButton=True)
    set_props("notice", {"children": notice})
