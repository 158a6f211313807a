"""Branches: does one input of a fusion starve the others of gradient?"""

from collections.abc import Mapping, Sequence
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
from qprobe.dashboard.figures.layer import over_time
from qprobe.dashboard.figures.parts import lines
from qprobe.dashboard.layer_detail import LayerDetail, layer_detail
from qprobe.dashboard.library import Library
from qprobe.dashboard.pages.layers import nothing_to_show
from qprobe.dashboard.parts import Part, is_control, parts
from qprobe.errors import InputError
from qprobe.records import Series

#: Fusions whose imbalance is drawn in one chart.
_MOST = 10


def layout(context: Context) -> Any:
    """The energy of each branch over the training, with the control in high precision beside it."""
    run = context.run
    if run is None:
        return nothing_to_show(context)
    found = context.library.answer(run, parts, "branch")
    title = page_title("Branches", "Gradient energy of each input of a fusion. Pin the bf16 run "
                       "as baseline: imbalance that it has too is not the recipe's.")  # fmt: skip
    if not found:
        return html.Div(
            [
                title,
                empty_state(
                    "No fusion of branches was watched in this run.",
                    "Networks with skip connections are watched at every concatenation and sum.",
                    f"qprobe analyze {run.path.parent / 'best.pt'} --only fusion",
                ),
            ]
        )
    sites = list(dict.fromkeys(part.site for part in found))
    keys = [key for key in dict.fromkeys(part.key for part in found) if key != "n"]
    query, baseline = context.query, context.baseline
    beside = baseline is not None or any(part.is_control for part in found)
    return html.Div(
        [
            title,
            html.Div(
                [
                    select("branches", "layer", "Fusion", sites,
                           query.choice("layer", sites, sites[0])),
                    select("branches", "measure", "Measure", keys,
                           query.choice("measure", keys, keys[0])),
                ],
                className="controls",
            ),
            html.Div(
                [
                    card("This run", chart("branch-lines", "branches of this run", 380)),
                    card(
                        "Baseline" if baseline else "In high precision, on the same batches",
                        chart("branch-control", "branches of the control", 380),
                    ) if beside else None,
                ],
                className="two",
            ),
            card("Imbalance of every fusion",
                 chart("imbalance", "imbalance of fusions over the steps", 340),
                 note="Largest minus smallest log-energy deviation; 0 is balanced."),
            dcc.Store(id="branch-runs", data=[run.name, baseline.name if baseline else ""]),
        ]
    )  # fmt: skip


def register(app: Dash, library: Library) -> None:
    """The charts follow the controls."""

    @app.callback(
        Output("branch-lines", "figure"),
        Output("branch-control", "figure"),
        Output("imbalance", "figure"),
        Input(control("branches", "layer"), "value"),
        Input(control("branches", "measure"), "value"),
        Input("branch-runs", "data"),
        Input("look", "data"),
    )
    def fill(site: str, key: str, names: list[str], look: str) -> tuple[Any, ...]:
        run, baseline, dark = library.run(names[0]), library.run(names[1]), look == "dark"
        if run is None:
            raise InputError(f"the run {names[0]!r} is gone; choose another one.")
        found = library.answer(run, parts, "branch")
        charts = (
            lines([part for part in some if part.site == site], "branch", key, dark=dark)
            for some in (
                [part for part in found if not part.is_control],
                _beside(found, None if baseline is None
                        else library.answer(baseline, parts, "branch")),
            )
        )  # fmt: skip
        sites = dict.fromkeys(part.site for part in found)
        details = {place: library.answer(run, layer_detail, place) for place in sites}
        return *charts, over_time(_imbalances(details)[:_MOST], "imbalance", dark=dark)


def _beside(found: Sequence[Part], baseline: Sequence[Part] | None) -> list[Part]:
    """What the run is compared with: the baseline that is pinned, else its own control."""
    if baseline is not None:
        return [part for part in baseline if not part.is_control]
    return [part for part in found if part.is_control]


def _imbalances(details: Mapping[str, LayerDetail]) -> list[tuple[str, Series]]:
    """The imbalance of every fusion, and what it is in high precision where that was measured."""
    return [
        (f"{site}, high precision" if is_control(column) else site, series)
        for site, detail in details.items()
        for column, series in detail.series.items()
        if column.key == "imbalance"
    ]


PAGE = Page(path="/branches", title="Branches", sign="⇉", layout=layout, register=register)
