"""Callbacks that run in the browser; their functions are in ``assets/app.js``."""

from dash import ClientsideFunction, Dash
from dash.dependencies import DashDependency


def clientside(app: Dash, function: str, *parts: DashDependency) -> None:
    """Run a function of ours when an input changes, and not when a page opens."""
    app.clientside_callback(  # type: ignore[no-untyped-call]  # dash has no type for it
        ClientsideFunction("qprobe", function), *parts, prevent_initial_call=True
    )
