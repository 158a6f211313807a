"""Live: where a training stands, while it runs."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import dash_mantine_components as dmc
import numpy as np
from dash import Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from qprobe.dashboard.attributes import aria
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
from qprobe.dashboard.decimate import decimated
from qprobe.dashboard.family import family
from qprobe.dashboard.figures.layer import over_time
from qprobe.dashboard.library import Library, Run
from qprobe.dashboard.numerals import plain
from qprobe.dashboard.pages.layers import nothing_to_show
from qprobe.dashboard.pulse import pulse_of
from qprobe.errors import InputError
from qprobe.records import Metric, RunReader, Series, Status

_SIGNS = {"running": "▶", "finished": "✓", "failed": "✕", "interrupted": "‖"}


def layout(context: Context) -> Any:
    """Progress, the training's own series, and its validations."""
    chosen = context.run
    if chosen is None:
        return nothing_to_show(context)
    run = _training_of(context, chosen)
    if run is None:
        return html.Div(
            [
                page_title("Live", chosen.name),
                empty_state("This run is no training.", "It has no steps to follow.",
                            "qprobe train --size tiny --recipe nvfp4"),
            ]
        )  # fmt: skip
    measured = context.library.answer(run, training)
    scores = _scores(context.library, run)
    query, names = context.query, list(measured)
    score = _telling(scores)
    baseline = context.baseline
    return html.Div(
        [
            page_title(
                "Live", f"Where {run.name} stands. It is only read, and never held up."
            ),
            html.Div(id="live-facts", className="kpis"),
            html.Div(id="live-progress"),
            html.Div(
                [
                    select("live", "series", "Series", names,
                           query.choice("series", names, names[0] if names else None)),
                    select("live", "score", "Validation score", scores,
                           query.choice("score", scores, score)),
                    select("live", "axis", "Axis", ["linear", "log"],
                           query.choice("axis", ["linear", "log"], "linear")),
                ],
                className="controls",
            ),
            html.Div(
                [
                    card("Every step", chart("live-series", "a series over the steps", 360)),
                    card("Validation", chart("live-scores", "a validation score", 360)),
                ],
                className="two",
            ),
            dcc.Store(id="live-runs", data=[run.name, baseline.name if baseline else ""]),
            dcc.Store(id="live-drawn"),
        ]
    )  # fmt: skip


def _training_of(context: Context, chosen: Run) -> Run | None:
    """The run or the training that it analyzes; where none was named, one that is under way."""
    library, others = context.library, [] if context.query.text("run") else context.runs
    running = [run for run in others if run.status == Status.RUNNING]
    for one in (*running, *family(library, chosen), *others):
        if library.answer(one, training) or _scores(library, one):
            return one
    return None


def training(reader: RunReader) -> dict[str, Series]:
    """What the training recorded of itself, by key, thinned to what a screen can show."""
    return {column.key: decimated(series) for column, series in reader.select(probe="training")}


def metrics(reader: RunReader) -> list[Metric]:
    """Values of the validation data."""
    return reader.metrics(split="validation")


def _scores(library: Library, run: Run) -> list[str]:
    return sorted({metric.name for metric in library.answer(run, metrics)})


def _telling(scores: Sequence[str]) -> str | None:
    return "auprc" if "auprc" in scores else next(iter(scores), None)


def score_series(found: list[Metric], name: str | None) -> Series:
    """One score over the steps."""
    kept = [metric for metric in found if metric.name == name]
    return Series(
        steps=np.array([metric.step for metric in kept], dtype=np.int64),
        values=np.array([metric.value for metric in kept], dtype=np.float64),
    )


def _facts(run: Run, measured: dict[str, Series], found: list[Metric]) -> list[Any]:
    loss = measured.get("loss")
    last = int(loss.steps[-1]) if loss is not None and len(loss) else None
    epoch = max((metric.epoch for metric in found if metric.epoch is not None), default=None)
    planned, epochs = run.config.get("steps"), run.config.get("epochs")
    return [
        kpi(run.status, run.reason or "status", sign=_SIGNS[run.status]),
        kpi(f"{'–' if last is None else last} of {planned or 'as many as it takes'}", "step"),
        kpi(_epoch(epoch, None if planned else epochs), "epoch"),
        kpi(plain(float(loss.values[-1]) if loss is not None and len(loss) else None), "last loss"),
        kpi(_written(run.changed_s), "last written (UTC)"),
    ]


def _written(then_s: float) -> str:
    """A time and no age: a page is not drawn again while nothing is written."""
    then = datetime.fromtimestamp(then_s, UTC)
    today = then.date() == datetime.now(UTC).date()
    return then.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")


def _epoch(done: int | None, planned: object) -> str:
    """A training that ends after a number of steps is not on its way to its last epoch."""
    told = "–" if done is None else str(done)
    return f"{told} of {planned}" if planned else told


def _progress(run: Run, measured: dict[str, Series]) -> Any:
    planned, loss = run.config.get("steps"), measured.get("loss")
    if not isinstance(planned, int) or not planned or loss is None or not len(loss):
        return None
    share = min(100.0, 100.0 * int(loss.steps[-1]) / planned)
    bar = dmc.ProgressSection(value=share, **aria(label="steps done"))
    return dmc.ProgressRoot(bar, size="lg", mb="md")


def register(app: Dash, library: Library) -> None:
    """Everything follows the file."""

    @app.callback(
        Output("live-facts", "children"),
        Output("live-progress", "children"),
        Output("live-series", "figure"),
        Output("live-scores", "figure"),
        Output("live-drawn", "data"),
        Output(control("live", "score"), "data"),
        Output(control("live", "score"), "value"),
        Input(control("live", "series"), "value"),
        Input(control("live", "score"), "value"),
        Input(control("live", "axis"), "value"),
        Input("live-runs", "data"),
        Input("look", "data"),
        Input("pulse", "data"),
        State("live-drawn", "data"),
    )
    def fill(
        key: str, score: str | None, axis: str, names: list[str], *rest: Any
    ) -> tuple[Any, ...]:
        look, _, before = rest
        drawn = pulse_of([one for one in map(library.run, names) if one is not None])
        follows = ctx.triggered_id == "pulse" and before is not None
        if follows and drawn == before["pulse"]:
            raise PreventUpdate  # another run was written to
        run = library.run(names[0])
        if run is None:
            raise InputError(f"the run {names[0]!r} is gone; choose another one.")
        # A page that was opened before the first validation has no score to choose yet.
        known = _scores(library, run)
        first = None if score else _telling(known)
        asked = _Asked(key=key, score=score or first or "", logarithmic=axis == "log",
                       dark=look == "dark")  # fmt: skip
        # Tabs ask one after another, and what they see is drawn once.
        shown = library.remembered((drawn, *names, asked), lambda: _shown(library, names, asked))
        there = before["charts"] if follows else (None, None)
        charts = [
            chart.figure if chart.content != content else no_update
            for chart, content in zip(shown.charts, there, strict=True)
        ]
        now = {"pulse": drawn, "charts": [chart.content for chart in shown.charts]}
        chosen = (known, first) if first else (no_update, no_update)
        return (*shown.facts, *charts, now, *chosen)


class _Asked(NamedTuple):
    """What the controls say."""

    key: str
    score: str
    logarithmic: bool
    dark: bool


class _Chart(NamedTuple):
    """A chart, and a word for what is in it: one with the same content is not drawn again."""

    figure: Any
    content: str


class _Shown(NamedTuple):
    """What the page has of a state of its runs."""

    facts: tuple[Any, Any]
    charts: tuple[_Chart, _Chart]


def _shown(library: Library, names: Sequence[str], asked: _Asked) -> _Shown:
    """Facts, progress and both charts of a run beside the baseline's."""
    series, scores = [], []
    facts: tuple[Any, Any] = (None, None)
    for word, run in zip(("this run", "baseline"), map(library.run, names), strict=True):
        if run is not None:
            measured, found = library.answer(run, training), library.answer(run, metrics)
            if asked.key in measured:
                series.append((word, measured[asked.key]))
            scores.append((word, score_series(found, asked.score)))
            if word == "this run":
                facts = _facts(run, measured, found), _progress(run, measured)
    return _Shown(
        facts=facts,
        charts=(_chart(series, asked.key or "", asked), _chart(scores, asked.score, asked)),
    )


def _chart(lines: Sequence[tuple[str, Series]], label: str, asked: _Asked) -> _Chart:
    content = hashlib.sha256()
    for name, series in lines:
        for part in (name.encode(), series.steps.tobytes(), series.values.tobytes()):
            content.update(part)
    figure = over_time(lines, label, dark=asked.dark, logarithmic=asked.logarithmic)
    return _Chart(figure=figure, content=content.hexdigest())


PAGE = Page(path="/live", title="Live", sign="∿", layout=layout, register=register)
