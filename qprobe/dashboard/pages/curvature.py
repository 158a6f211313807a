"""Curvature: how much noise the minimum tolerates, layer by layer."""

from typing import Any

from dash import Dash, Input, Output, dcc, html

from qprobe.dashboard.components import (
    card,
    chart,
    control,
    empty_state,
    kpi,
    page_title,
    select,
)
from qprobe.dashboard.context import Context, Page
from qprobe.dashboard.family import holder
from qprobe.dashboard.figures.frame import empty
from qprobe.dashboard.figures.per_layer import bars, height, spectrum
from qprobe.dashboard.layer_values import bars as bars_of
from qprobe.dashboard.layer_values import keys, of_model
from qprobe.dashboard.library import Library
from qprobe.dashboard.numerals import plain
from qprobe.dashboard.pages.layers import nothing_to_show
from qprobe.errors import InputError
from qprobe.records import Array, RunReader

_PROBE = "curvature"
#: What is worth a look first.
_FIRST = ("predicted", "trace", "second_order", "first_order")
_MEANING = {
    "predicted": "loss that the weights’ error costs, to second order",
    "second_order": "½ ΔwᵀHΔw of the weights’ error",
    "first_order": "gᵀΔw of the weights’ error",
    "trace": "trace of the layer’s Hessian",
    "error_norm": "‖Δw‖ of the weights’ error",
}


def layout(context: Context) -> Any:
    """A value for each layer, and the spectrum where it was measured."""
    run = context.run
    if run is None:
        return nothing_to_show(context)
    found = holder(context.library, run, _PROBE)
    title = page_title("Curvature", "Where the loss is steep, rounding is expensive.")
    if found is None:
        return html.Div(
            [
                title,
                empty_state(
                    "The curvature of this run was not measured.",
                    "It takes the gradients of some batches at the checkpoint.",
                    f"qprobe analyze {run.path.parent / 'best.pt'} --only curvature",
                ),
            ]
        )
    made, values = found
    known = sorted(
        keys(values), key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST)
    )
    whole = context.library.answer(made, of_model, _PROBE)
    controls = select("curvature", "measure", "Measure", known,
                      context.query.choice("measure", known, known[0]))  # fmt: skip
    return html.Div(
        [
            title,
            html.Div(_facts(whole), className="kpis"),
            html.Div(controls, className="controls"),
            html.Div(
                [
                    card("Every layer",
                         chart("curvature", "curvature of every layer", height(len(values))),
                         note="With 95 % intervals; a negative estimate is noise about zero."),
                    card("Spectrum of the Hessian",
                         chart("spectrum", "density of eigenvalues", 380)),
                ],
                className="two",
            ),
            dcc.Store(id="curvature-run", data=made.name),
        ]
    )  # fmt: skip


def _facts(whole: dict[str, float]) -> list[Any]:
    """What was measured of the model as a whole; eigenvalues with their residuals."""
    facts = [("predicted", "loss by all weights’ errors, predicted"),
             ("measured", "the same, measured"), ("trace", "trace of the Hessian"),
             *((f"eigenvalue{at}", f"eigenvalue {at + 1}") for at in range(2)),
             ("negative_share", "share of negative eigenvalues")]  # fmt: skip
    told = []
    for key, label in facts:
        error = whole.get(f"{key}.stderr", whole.get(f"{key}.residual"))
        if key in whole:
            spread = f" ± {error:.2g}" if error is not None else ""
            told.append(kpi(plain(whole[key]) + spread, label))
    return told


def spectra(reader: RunReader) -> list[Array]:
    """Densities ``[eigenvalue and density, points]``."""
    return [
        array
        for array in reader.arrays(probe=_PROBE)
        if array.data.ndim == 2 and array.data.shape[0] == 2
    ]


def register(app: Dash, library: Library) -> None:
    """The charts follow the control."""

    @app.callback(
        Output("curvature", "figure"),
        Output("spectrum", "figure"),
        Input(control("curvature", "measure"), "value"),
        Input("curvature-run", "data"),
        Input("look", "data"),
    )
    def fill(key: str, name: str, look: str) -> tuple[Any, Any]:
        run, dark = library.run(name), look == "dark"
        found = holder(library, run, _PROBE) if run is not None else None
        if run is None or found is None:
            raise InputError(f"the run {name!r} is gone; choose another one.")
        known = library.answer(found[0], spectra)
        density = (
            spectrum(known[-1].data, dark=dark)
            if known
            else empty("The spectrum was not measured.", dark=dark)
        )
        return bars(bars_of(found[1], key), _MEANING.get(key, key), dark=dark), density


PAGE = Page(path="/curvature", title="Curvature", sign="⌣", layout=layout, register=register)
