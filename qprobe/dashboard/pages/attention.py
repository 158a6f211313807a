"""Attention: what four bits do to logits and softmax, head by head."""

from typing import Any

from dash import Dash, Input, Output, dcc, html

from qprobe.dashboard.components import (
    card,
    chart,
    control,
    empty_state,
    page_title,
    select,
)
from qprobe.dashboard.context import Context, Page
from qprobe.dashboard.figures import parts as figures
from qprobe.dashboard.figures.frame import empty
from qprobe.dashboard.library import Library
from qprobe.dashboard.pages.layers import nothing_to_show
from qprobe.dashboard.parts import maps, parts
from qprobe.errors import InputError

#: What softmax feels comes first; a ratio in dB alone misleads.
_FIRST = ("error_qk_nats", "error_proj_nats", "snr_qk_db", "snr_proj_db", "levels_ratio")
_COUNTS = ("n", "heads", "draws", "proj_available")


def layout(context: Context) -> Any:
    """All heads at once, one attention over time, and the maps that were sampled."""
    run = context.run
    if run is None:
        return nothing_to_show(context)
    found = context.library.answer(run, parts, "head")
    title = page_title(
        "Attention", "How much of each head's logits and softmax survives. Bright is worst."
    )
    if not found:
        return html.Div(
            [
                title,
                empty_state(
                    "No attention was watched in this run.",
                    "A model with attention is watched head by head when it is analyzed.",
                    f"qprobe analyze {run.path.parent / 'best.pt'} --only attention",
                ),
            ]
        )
    measures = [key for key in dict.fromkeys(part.key for part in found) if key not in _COUNTS]
    sites = list(dict.fromkeys(part.site for part in found))
    first = next((key for key in _FIRST if key in measures), measures[0])
    shown = [_name(array) for array in context.library.answer(run, maps)]
    query, baseline = context.query, context.baseline
    controls = [
        select("attention", "measure", "Measure", measures,
               query.choice("measure", measures, first)),
        select("attention", "layer", "Attention", sites, query.choice("layer", sites, sites[0])),
    ]  # fmt: skip
    cards = [
        card("Every head", chart("heads", "a measure of every head", 110 + 34 * len(sites))),
        card("Over the training", chart("head-lines", "heads of one attention over time", 380)),
    ]
    if shown:
        controls.append(select("attention", "map", "Sampled map", shown,
                               query.choice("map", shown, shown[0])))  # fmt: skip
        cards.append(card("Sampled map", chart("head-map", "a map of attention", 420)))
    return html.Div(
        [
            title,
            html.Div(controls, className="controls"),
            html.Div(cards, className="two"),
            dcc.Store(id="attention-runs", data=[run.name, baseline.name if baseline else ""]),
        ]
    )


def _name(array: Any) -> str:
    return f"{array.site} {array.key}, step {array.step}"


def register(app: Dash, library: Library) -> None:
    """The charts follow the controls."""

    @app.callback(
        Output("heads", "figure"),
        Output("head-lines", "figure"),
        Input(control("attention", "measure"), "value"),
        Input(control("attention", "layer"), "value"),
        Input("attention-runs", "data"),
        Input("look", "data"),
    )
    def fill(key: str, site: str, names: list[str], look: str) -> tuple[Any, Any]:
        run, baseline = library.run(names[0]), library.run(names[1])
        if run is None:
            raise InputError(f"the run {names[0]!r} is gone; choose another one.")
        found = library.answer(run, parts, "head")
        others = library.answer(baseline, parts, "head") if baseline is not None else []
        dark = look == "dark"
        lines = figures.lines(
            [part for part in found if part.site == site], "head", key, dark=dark,
            others=[part for part in others if part.site == site],
        )  # fmt: skip
        return figures.heads(found, key, dark=dark), lines

    @app.callback(
        Output("head-map", "figure"),
        Input(control("attention", "map"), "value"),
        Input("attention-runs", "data"),
        Input("look", "data"),
    )
    def show_map(name: str, names: list[str], look: str) -> Any:
        run = library.run(names[0])
        known = library.answer(run, maps) if run is not None else []
        for array in known:
            if _name(array) == name:
                return figures.sampled(array.data, dark=look == "dark")
        return empty("No map was sampled.", dark=look == "dark")


PAGE = Page(path="/attention", title="Attention", sign="⁘", layout=layout, register=register)
