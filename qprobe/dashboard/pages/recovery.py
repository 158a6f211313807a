"""Recovery: which layers bring the quality back, and a plan made of them."""

import json
from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, dcc, html

from qprobe.dashboard.attributes import data
from qprobe.dashboard.components import (
    card,
    chart,
    control,
    empty_state,
    page_title,
    select,
    several,
)
from qprobe.dashboard.context import Context, Page
from qprobe.dashboard.figures.per_layer import bars, curve, height
from qprobe.dashboard.layer_detail import literal
from qprobe.dashboard.layer_values import Values, holder, keys
from qprobe.dashboard.layer_values import bars as bars_of
from qprobe.dashboard.library import Library
from qprobe.dashboard.pages.layers import nothing_to_show
from qprobe.errors import InputError

_PROBE = "dequantization"
_ORDERED = ("cumulative", "incremental")
_MEANING = {
    "recovery": "share of the lost quality that the layer alone brings back",
    "sensitivity": "quality lost when only this layer is quantized",
}


def layout(context: Context) -> Any:
    """The bars, the curve, and the plan."""
    run = context.run
    if run is None:
        return nothing_to_show(context)
    found = holder(context.library, run, _PROBE)
    title = page_title("Recovery", "Which layers must stay in high precision.")
    if found is None:
        checkpoint = run.path.parent / "best.pt"
        return html.Div(
            [
                title,
                empty_state(
                    "Layers of this run were not yet given back to high precision.",
                    "The analysis lends each layer back and measures what returns.",
                    f"qprobe analyze {checkpoint} --only dequantization",
                ),
            ]
        )
    made, values = found
    known = [key for key in keys(values) if key not in _ORDERED]
    sites = list(values)
    chosen = context.query.choices("keep", sites) or _surely(values)
    controls = html.Div(
        [
            select("recovery", "measure", "Measure", known,
                   context.query.choice("measure", known, known[0])),
            several("recovery", "keep", "Layers to keep in high precision", sites, chosen),
        ],
        className="controls",
    )  # fmt: skip
    return html.Div(
        [
            title,
            controls,
            html.Div(
                [
                    card("What each layer brings back",
                         chart("recovery", "recovery of every layer", height(len(values))),
                         note="With 95 % intervals. Pale: may be nothing. Hatched: in the plan."),
                    html.Div([card("One after another", chart("cumulative",
                                                              "recovery of growing sets", 300)),
                              _plan()], className="stack"),
                ],
                className="two",
            ),
            dcc.Store(id="recovery-run", data=made.name),
        ]
    )  # fmt: skip


def _plan() -> Any:
    buttons = dmc.Group(
        [
            html.Button("save plan.toml", type="button", className="export",
                        **data(save="plan-text", name="plan.toml")),
            html.Span(id="plan-count", className="note"),
        ]
    )  # fmt: skip
    return card(
        "Plan",
        html.Pre(id="plan-text", className="code", tabIndex=0),
        buttons,
        note="Read by qprobe.override: these layers keep the recipe on the right.",
    )


def _surely(values: Values) -> list[str]:
    """Layers whose recovery is above zero for sure, the largest first; three at most."""
    known = [bar for bar in bars_of(values, "recovery") if bar.low is not None and bar.low > 0]
    return [bar.site for bar in sorted(known, key=lambda bar: -bar.value)[:3]]


def plan(sites: Sequence[str], recipe: str = "bf16") -> str:
    """TOML of patterns and recipes.

    >>> print(plan(["head", "blocks[0]"]))
    "head" = "bf16"
    "blocks[[]0]" = "bf16"
    """
    # JSON escapes are TOML's, but for DEL.
    quoted = (json.dumps(literal(site), ensure_ascii=False) for site in sites)
    return "\n".join(f'{name} = "{recipe}"'.replace("\x7f", "\\u007f") for name in quoted)


def register(app: Dash, library: Library) -> None:
    """The charts and the plan follow the choice of layers."""

    @app.callback(
        Output("recovery", "figure"),
        Output("cumulative", "figure"),
        Output("plan-text", "children"),
        Output("plan-count", "children"),
        Input(control("recovery", "measure"), "value"),
        Input(control("recovery", "keep"), "value"),
        Input("recovery-run", "data"),
        Input("look", "data"),
    )
    def fill(key: str, kept: list[str] | None, name: str, scheme: str) -> tuple[Any, ...]:
        run, dark = library.run(name), scheme == "dark"
        found = holder(library, run, _PROBE) if run is not None else None
        if found is None:
            raise InputError(f"the run {name!r} is gone; choose another one.")
        values, sites = found[1], kept or []
        ordered = [bar for key_ in _ORDERED for bar in bars_of(values, key_)]
        ordered.sort(key=lambda bar: bar.value)
        return (
            bars(bars_of(values, key), _MEANING.get(key, key), dark=dark, chosen=sites),
            curve(ordered, "share of the lost quality", dark=dark),
            plan(sites) or "# choose layers above",
            f"{len(sites)} of {len(values)} layers",
        )


PAGE = Page(path="/recovery", title="Recovery", sign="↺", layout=layout, register=register)
