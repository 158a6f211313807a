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
from qprobe.dashboard.family import first_of
from qprobe.dashboard.figures import parts as figures
from qprobe.dashboard.figures.map_pair import caption, pair
from qprobe.dashboard.library import Library, Run
from qprobe.dashboard.pages.layers import nothing_to_show
from qprobe.dashboard.parts import parts
from qprobe.dashboard.sampled_maps import WORDS, latest, places
from qprobe.errors import InputError

#: What softmax feels comes first; a ratio in dB alone misleads.
_FIRST = ("error_qk_nats", "error_proj_nats", "snr_qk_db", "snr_proj_db", "levels_ratio")
_COUNTS = ("n", "heads", "draws", "proj_available")


def layout(context: Context) -> Any:
    """All heads at once, one attention over time, and the maps that were sampled."""
    run = context.run
    if run is None:
        return nothing_to_show(context)
    held = first_of(context.library, run, parts, "head")
    title = page_title(
        "Attention", "How much of each head's logits and softmax survives. Bright is worst."
    )
    if held is None:
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
    run, found = held
    measures = [key for key in dict.fromkeys(part.key for part in found) if key not in _COUNTS]
    sites = list(dict.fromkeys(part.site for part in found))
    first = next((key for key in _FIRST if key in measures), measures[0])
    query, baseline = context.query, context.baseline
    controls = [
        select("attention", "measure", "Measure", measures,
               query.choice("measure", measures, first)),
        select("attention", "layer", "Attention", sites, query.choice("layer", sites, sites[0])),
    ]  # fmt: skip
    cards = [
        card(
            "Every head",
            chart("heads", "a measure of every head", 110 + 34 * len(sites), is_map=True),
        ),
        card("Over the training", chart("head-lines", "heads of one attention over time", 380)),
    ]
    chosen, sampled = _maps(context, run)
    return html.Div(
        [
            title,
            html.Div([*controls, *chosen], className="controls"),
            html.Div(cards, className="two"),
            sampled,
            dcc.Store(id="attention-runs", data=[run.name, baseline.name if baseline else ""]),
        ]
    )


def _maps(context: Context, run: Run) -> tuple[list[Any], Any]:
    """The choice of a sampled map and its card; of a run that has none, how to have one."""
    names = [_name(*place) for place in context.library.answer(run, places)]
    if not names:
        return [], card(
            "Sampled maps",
            empty_state(
                "No map was sampled in this run.",
                "The probe attention_maps keeps one head before and under the recipe, where "
                "there is one; an analysis of the checkpoint has it.",
                f"qprobe analyze {run.path.parent / 'best.pt'} --only attention",
            ),
        )
    shown = context.query.choice("map", names, names[0])
    note = html.Div(id="map-caption", className="note", role="status")
    drawn = chart("head-map", "a map of attention before and under the recipe", 420, is_map=True)
    return [select("attention", "map", "Sampled map", names, shown)], card(
        "Sampled maps", note, drawn
    )


def _name(site: str, role: str) -> str:
    return f"{site}, {WORDS.get(role, role)}"


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
        Output("map-caption", "children"),
        Input(control("attention", "map"), "value"),
        Input("attention-runs", "data"),
        Input("look", "data"),
    )
    def show_map(name: str, names: list[str], look: str) -> tuple[Any, str]:
        run = library.run(names[0])
        known = library.answer(run, places) if run is not None else []
        found = None
        for place in known:
            if run is not None and _name(*place) == name:
                found = library.answer(run, latest, *place)
        return pair(found, dark=look == "dark"), caption(found)


PAGE = Page(path="/attention", title="Attention", sign="⁘", layout=layout, register=register)
