"""Predictions: what the recipes do to what the model says."""

from collections.abc import Sequence
from typing import Any

from dash import Dash, Input, Output, State, html

from qprobe.dashboard.components import (
    card,
    chart,
    control,
    empty_state,
    page_title,
    several,
)
from qprobe.dashboard.context import Context, Page
from qprobe.dashboard.examples import Example, examples, grey, overlaid
from qprobe.dashboard.family import first_of
from qprobe.dashboard.figures import predictions as figures
from qprobe.dashboard.library import Library, Run
from qprobe.dashboard.numerals import short
from qprobe.dashboard.pages.layers import nothing_to_show
from qprobe.dashboard.png import picture
from qprobe.dashboard.quality import histograms
from qprobe.records import settings

_MOST = 5


def layout(context: Context) -> Any:
    """Curves of several runs, then the images of one."""
    run = context.run
    if run is None:
        return nothing_to_show(context)
    told = [one.name for one in context.runs if one.is_training]
    # An analysis has no test of its own: it is about that of the training that it analyzes.
    tested = first_of(context.library, run, histograms)
    chosen = context.query.choices("compare", told) or _alike(context, tested[0] if tested else run)
    owner, shown = first_of(context.library, run, examples) or (run, {})
    return html.Div(
        [
            page_title("Predictions", "What each recipe does to the probabilities of pixels."),
            html.Div(several("predictions", "compare", "Runs to compare (five at most)", told,
                             chosen), className="controls"),
            html.Div(
                [
                    card("Precision and recall", chart("curves", "precision and recall", 420),
                         note="Over all pixels of the test set, with the area under the curve. "
                         "Steps are a sign of few levels."),
                    card("Logits", chart("spread", "histograms of logits", 420),
                         note="Dotted: background, solid: foreground. Gaps are levels that the "
                         "recipe cannot reach."),
                ],
                className="two",
            ),
            card(f"Samples of {short(owner.name, 60)}", _samples(context, owner, shown),
                 note="Green was found, orange was missed, violet is a false alarm."),
        ]
    )  # fmt: skip


def _alike(context: Context, run: Run) -> list[str]:
    """The run, the baseline, and the same training under other recipes."""
    mine = settings.shared(run.config), run.config.get("seed"), run.config.get("fold")
    names = [run.name] if run.is_training else []
    if context.baseline is not None:
        names.append(context.baseline.name)
    for other in context.runs:
        theirs = settings.shared(other.config), other.config.get("seed"), other.config.get("fold")
        if other.is_training and theirs == mine and other.name not in names:
            names.append(other.name)
    return list(dict.fromkeys(names))[:_MOST]


def _samples(context: Context, owner: Run, shown: dict[str, Example]) -> Any:
    if not shown:
        return empty_state(
            "This run keeps no sample images.",
            "A training keeps those of its first test samples when it is finished.",
            "qprobe train --arch vit --size tiny --recipe nvfp4",
        )
    baseline = context.baseline
    beside = baseline is not None and baseline.name != owner.name
    others = context.library.answer(baseline, examples) if baseline and beside else {}
    return html.Div(
        [_sample(name, example, others.get(name)) for name, example in shown.items()],
        className="samples",
    )


def _sample(name: str, example: Example, other: Example | None) -> html.Figure:
    parts = [
        ("image", grey(example)),
        ("truth", overlaid(example)),
        ("this run", overlaid(example, example.predicted)),
    ]
    if other is not None and other.mask.shape == example.mask.shape:
        parts.append(("baseline", overlaid(example, other.predicted)))
    images = [
        html.Div([html.Img(src=picture(pixels), alt=f"{name}: {word}"), html.Small(word)])
        for word, pixels in parts
    ]
    columns = {"gridTemplateColumns": f"repeat({len(images)}, 1fr)"}
    return html.Figure(
        [
            html.Div(images, className="images", style=columns),
            html.Figcaption(f"{name}: {example.wrong:.2%} of pixels wrong"),
        ]
    )


def register(app: Dash, library: Library) -> None:
    """The curves follow the choice of runs."""

    @app.callback(
        Output("curves", "figure"),
        Output("spread", "figure"),
        Input(control("predictions", "compare"), "value"),
        Input("look", "data"),
        State("address", "search"),
    )
    def fill(names: Sequence[str] | None, scheme: str, search: str | None) -> tuple[Any, Any]:
        context = Context.of(app, library, search)
        wanted = names or [run.name for run in context.runs if run.is_training]
        kept = []
        for run in (library.run(name) for name in wanted[:_MOST]):
            pooled = library.answer(run, histograms) if run is not None else None
            if run is not None and pooled is not None:
                kept.append((run, pooled.counts.sum(0)))
        titles = _titles([run for run, _ in kept])
        found = list(zip(titles, (counts for _, counts in kept), strict=True))
        dark = scheme == "dark"
        return figures.curves(found, dark=dark), figures.spread(found, dark=dark)


def _titles(runs: Sequence[Run]) -> list[str]:
    """The recipes where these tell the runs apart, else the names."""
    recipes = [run.recipe for run in runs if run.recipe]
    if len(set(recipes)) == len(runs):
        return recipes
    return [short(run.name, 40) for run in runs]


PAGE = Page(path="/predictions", title="Predictions", sign="◧", layout=layout, register=register)
