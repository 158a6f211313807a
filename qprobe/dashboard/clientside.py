"""Callbacks that run in the browser; their functions are in ``assets/app.js``."""

from dash import ClientsideFunction, Dash, Input, Output
from dash.dependencies import DashDependency


def clientside(app: Dash, function: str, *parts: DashDependency, at_once: bool = False) -> None:
    """Run a function of ours when an input changes; when a page opens only with ``at_once``."""
    app.clientside_callback(  # type: ignore[no-untyped-call]  # dash has no type for it
        ClientsideFunction("qprobe", function), *parts, prevent_initial_call=not at_once
    )


def build_later(app: Dash, name: str) -> None:
    """Sets the store ``name-wanted`` once what has this name comes into view, or is next to do."""
    clientside(app, "later", Output(f"{name}-wanted", "data"), Input(name, "id"), at_once=True)
