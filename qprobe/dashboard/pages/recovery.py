"""Recovery: which layers bring the quality back, and a plan made of them."""

import json
from collections.abc import Sequence
from typing import Any

from dash import Dash, Input, Output, dcc, html

from qprobe.dashboard.attributes import data
from qprobe.dashboard.components import (
    card,
    chart,
    control,
    empty_state,
    kpi,
    page_title,
    select,
    several,
)
from qprobe.dashboard.context import Context, Page
from qprobe.dashboard.family import holder
from qprobe.dashboard.figures.per_layer import bars, curve, height
from qprobe.dashboard.layer_detail import literal
from qprobe.dashboard.layer_values import Values, growing, keys, of_groups, of_model
from qprobe.dashboard.layer_values import bars as bars_of
from qprobe.dashboard.library import Library, Run
from qprobe.dashboard.numerals import interval
from qprobe.dashboard.pages.layers import nothing_to_show
from qprobe.errors import InputError
from qprobe.inference.against_baseline import Mean

_PROBE = "dequantization"
#: What is worth a look first; other measures follow as they come.
_FIRST = ("recovery", "sensitivity", "recovery of input", "recovery of weight", "screen")


def layout(context: Context) -> Any:
    """What was lost, the bars, the curve, and the plan."""
    run = context.run
    if run is None:
        return nothing_to_show(context)
    library = context.library
    found = holder(library, run, _PROBE)
    title = page_title("Recovery", "Which layers must stay in high precision.")
    if found is None:
        return html.Div([title, _absent(run)])
    made, values = found
    whole = library.answer(made, of_model, _PROBE)
    known, sites = _measures(values), list(values)
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
            html.Div(_facts(made, whole), className="kpis"),
            controls,
            html.Div(
                [
                    html.Div([card("What each layer brings back",
                                   chart("recovery", "recovery of every layer",
                                         height(len(values))),
                                   note="With each layer’s own 95 % interval. Pale: may be "
                                   "nothing. Hatched: in the plan."),
                              *_groups(library, made)], className="stack"),
                    html.Div([card("One after another", chart("cumulative",
                                                              "recovery of growing sets", 300)),
                              _plan()], className="stack"),
                ],
                className="two",
            ),
            dcc.Store(id="recovery-run", data=made.name),
        ]
    )  # fmt: skip


def _absent(run: Run) -> Any:
    recipe = "" if run.recipe not in (None, "bf16") else " --recipe int4-tensor"
    return empty_state(
        "Layers of this run were not yet given back to high precision.",
        "The analysis lends each layer back and measures what returns.",
        f"qprobe analyze {run.path.parent / 'best.pt'}{recipe} --only dequantization",
    )


def _facts(made: Run, whole: dict[str, float]) -> list[Any]:
    """The scores between which everything on this page lies."""
    score = _score(made)

    def told(key: str, *, sign: bool = False) -> str:
        value, low, high, n = (whole.get(key + end) for end in ("", ".low", ".high", ".n"))
        if value is None:
            return "–"
        return interval(Mean(estimate=value, low=low, high=high, n=int(n or 0)), sign=sign)

    facts = [
        ("score.high_precision", f"{score} in high precision"),
        ("score.quantized", f"{score} under {made.recipe or 'the recipe'}"),
        ("gap", f"{score} lost, 95 % interval"),
    ]
    return [kpi(told(key), label) for key, label in facts if key in whole]


def _score(made: Run) -> str:
    return str(made.config.get("score", "score"))


def _measures(values: Values) -> list[str]:
    known = [key for key in keys(values) if not key.startswith("cumulative")]
    return sorted(known, key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST))


def _lost(whole: dict[str, float]) -> float | None:
    """The loss, where there is one for sure: shares of nothing say nothing."""
    return whole["gap"] if whole.get("gap.low", 0.0) > 0 else None


def _groups(library: Library, made: Run) -> list[Any]:
    """Kinds of layers, and pairs whose effects do not add up, where these were measured."""
    cards = []
    for stem, name, title, note in (
        ("kind.", "recovery", "Kinds of layers", "All layers of a kind given back together."),
        ("interaction", "interaction", "Pairs of layers",
         "What a pair brings back beyond its members alone, with limits that hold for all pairs "
         "together; pale: nothing for sure."),
    ):  # fmt: skip
        found = bars_of(library.answer(made, of_groups, _PROBE, stem), name)
        if found:
            label = title.lower()
            cards.append(card(title, chart(f"recovery-{name}s", label, height(len(found))),
                              note=note))  # fmt: skip
    return cards


def _plan() -> Any:
    buttons = html.Div(
        [
            html.Button("save plan.toml", type="button", className="export",
                        **data(save="plan-text", name="plan.toml")),
            html.Span(id="plan-count", className="note"),
        ],
        className="line",
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
        if run is None or found is None:
            raise InputError(f"the run {name!r} is gone; choose another one.")
        values, sites = found[1], kept or []
        lost = _lost(library.answer(found[0], of_model, _PROBE))
        unit = _meaning(key, _score(found[0]))
        sets = library.answer(found[0], growing, _PROBE)
        return (
            bars(bars_of(values, key), unit, dark=dark, chosen=sites,
                 whole=lost if key.startswith("recovery") else None),
            curve(sets, f"{_score(found[0])} brought back", dark=dark, whole=lost),
            plan(sites) or "# choose layers above",
            f"{len(sites)} of {len(values)} layers",
        )  # fmt: skip

    for name, stem in (("recovery", "kind."), ("interaction", "interaction")):
        _register_groups(app, library, name, stem)


def _meaning(key: str, score: str) -> str:
    if key.startswith("recovery"):
        operand = key.partition(" of ")[2]
        return f"{score} that the layer{f'’s {operand}' if operand else ''} alone brings back"
    if key == "sensitivity":
        return f"{score} lost when only this layer is quantized"
    return key


def _register_groups(app: Dash, library: Library, name: str, stem: str) -> None:
    @app.callback(
        Output(f"recovery-{name}s", "figure"),
        Input("recovery-run", "data"),
        Input("look", "data"),
    )
    def fill(run_name: str, look: str) -> Any:
        run = library.run(run_name)
        found = library.answer(run, of_groups, _PROBE, stem) if run is not None else {}
        return bars(bars_of(found, name), "score brought back", dark=look == "dark")


PAGE = Page(path="/recovery", title="Recovery", sign="↺", layout=layout, register=register)
