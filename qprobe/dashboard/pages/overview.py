"""Overview: which recipes lose quality against the baseline, and what was found to be the cause."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, html

from qprobe.dashboard.attributes import data
from qprobe.dashboard.components import (
    SIGNS,
    card,
    chart,
    control,
    empty_state,
    grid,
    kpi,
    page_title,
    rows_table,
    select,
    several,
)
from qprobe.dashboard.context import Context, Page
from qprobe.dashboard.figures.overview import forest, height
from qprobe.dashboard.filters import compiled
from qprobe.dashboard.findings import finding_card
from qprobe.dashboard.findings_order import gravest_first, told_once
from qprobe.dashboard.library import Library, Run
from qprobe.dashboard.numerals import interval, plain
from qprobe.dashboard.quality import Group, Quality, Question, quality
from qprobe.dashboard.query import Query
from qprobe.records import Status

_SHOWN = 6
_STATES = [*Status, "unreadable"]
_SPLITS = ("test", "validation")
_VERDICTS = {"better": "▲", "worse": "▼", "no difference found": "=", "too few pairs to say": "?"}


def layout(context: Context) -> Any:
    """Counts, recipes against the baseline, findings, and every run."""
    runs = context.library.runs()
    if not runs:
        places = ", ".join(str(path) for path in context.library.paths)
        return empty_state(
            f"There is no run in {places} yet.",
            "A run is a file that ends in .qprobe. It appears here by itself once it is written."
            + _told_elsewhere(context.library.paths),
            "qprobe sweep --size tiny --recipe bf16 --recipe nvfp4 --recipe int4-tensor",
        )
    return html.Div(
        [
            page_title("Overview", "Which recipes lose quality, and which layers are the cause."),
            html.Div(_counts(runs), id="overview-counts", className="kpis"),
            _controls(context.query, runs),
            html.Div(
                [
                    card(
                        "Quality against the baseline",
                        html.Div(chart("recipes", "quality of recipes against the baseline", 150)),
                        html.Div(id="recipes-table"),
                        note="Difference with its 95 % interval, over seeds and folds where there "
                        "are several, else over the patients of the test set.",
                    ),
                    card("What fails", html.Div(_findings(context), id="overview-findings")),
                ],
                className="two",
            ),
            card("Runs", html.Div(id="overview-shown", className="note"), _grid()),
        ]
    )


def _told_elsewhere(paths: Sequence[Path]) -> str:
    """A folder of results that are no runs, as a study's, usually has a page that tells them."""
    pages = [str(path / "README.md") for path in paths if (path / "README.md").is_file()]
    return f" What else is in there is told in {', '.join(pages)}." if pages else ""


def _counts(runs: Sequence[Run]) -> list[Any]:
    readable = [run for run in runs if run.problem is None]
    tally = {state: sum(run.status is state for run in readable) for state in Status}
    findings = [finding for run in readable for finding in run.findings]
    grave = sum(finding.severity == "critical" for finding in findings)
    lost = len(runs) - len(readable)
    counts = [
        kpi(f"{tally[Status.FINISHED]} of {len(runs)}", "runs finished", sign="✓"),
        kpi(str(tally[Status.RUNNING]), "running now", sign="▶"),
        kpi(str(len({run.recipe for run in readable if run.recipe})), "recipes", sign="≡"),
        kpi(str(grave), f"critical of {len(findings)} findings", sign="▲"),
    ]
    broken = tally[Status.FAILED] + tally[Status.INTERRUPTED]
    if broken:
        counts.append(kpi(str(broken), "failed or interrupted", sign="✕"))
    if lost:
        counts.append(kpi(str(lost), "files cannot be read", sign="✕"))
    return counts


def _controls(query: Query, runs: Sequence[Run]) -> html.Div:
    names = sorted({name for run in runs for part in run.scores.values() for name in part})
    recipes = sorted({run.recipe for run in runs if run.recipe})
    score = "auprc" if "auprc" in names or not names else names[0]
    base = "bf16" if "bf16" in recipes or not recipes else recipes[0]
    field = dmc.TextInput(
        id=control("overview", "filter"),
        label="Runs (regex)",
        value=query.text("filter"),
        debounce=250,
        size="sm",
        className="control mono-input",
        **data(filter="true"),
    )
    return html.Div(
        [
            select("overview", "score", "Score", names or [score],
                   query.choice("score", names, score)),
            select("overview", "split", "Data", _SPLITS, query.choice("split", _SPLITS, "test")),
            select("overview", "base", "Baseline recipe", recipes or [base],
                   query.choice("base", recipes, base)),
            several("overview", "recipe", "Recipes", recipes, query.choices("recipe", recipes)),
            several("overview", "status", "Status", _STATES, query.choices("status", _STATES)),
            field,
        ],
        className="controls",
    )  # fmt: skip


def _findings(context: Context) -> list[Any]:
    readable = [run for run in context.library.runs() if run.problem is None]
    found = told_once(gravest_first(readable))
    if not found:
        return [
            empty_state(
                "Nothing was analyzed yet.",
                "An analysis names the failing layers, why they fail and what to change.",
                "qprobe analyze runs/RUN/best.pt",
            )
        ]
    shown = [finding_card(context, told) for told in found[:_SHOWN]]
    left = len(found) - _SHOWN
    return [*shown, html.P(f"and {left} more", className="note") if left > 0 else None]


def _grid() -> html.Div:
    columns = [
        {"field": "name", "headerName": "run", "cellRenderer": "Link", "flex": 3, "minWidth": 220,
         "tooltipField": "name", "cellClass": "mono"},
        {"field": "status", "headerName": "status", "width": 130},
        {"field": "recipe", "headerName": "recipe", "flex": 1, "minWidth": 120},
        {"field": "model", "headerName": "model", "flex": 1, "minWidth": 110},
        {"field": "seed", "headerName": "seed", "width": 80, "type": "numericColumn"},
        {"field": "fold", "headerName": "fold", "width": 80, "type": "numericColumn"},
        {"field": "m0", "headerName": "score", "width": 110, "type": "numericColumn",
         "valueFormatter": {"function": "measured(params)"}},
        {"field": "findings", "headerName": "findings", "width": 100, "type": "numericColumn"},
        {"field": "created", "headerName": "started (UTC)", "width": 160},
        {"field": "note", "headerName": "note", "flex": 2, "minWidth": 160, "tooltipField": "note"},
    ]  # fmt: skip
    return grid("runs", "runs", columns)


def _grid_height(count: int) -> int:
    """Pixels of so many runs, until they have to be scrolled."""
    return min(420, 90 + 34 * max(1, count))


def _row(context: Context, run: Run, asked: Question) -> dict[str, Any]:
    broken = run.problem is not None
    score = run.scores.get(asked.split, {}).get(asked.score)
    number = score is not None and abs(score) < float("inf")
    began = datetime.fromtimestamp(run.created_s, UTC).strftime("%Y-%m-%d %H:%M")
    parts = (str(run.config[name]) for name in ("arch", "size") if name in run.config)
    kind = "training" if run.is_training else "analysis"
    return {
        "name": run.name,
        "name_href": "" if broken else context.link("/layers", run=run.name),
        "status": _worded("unreadable" if broken else run.status),
        "recipe": run.recipe or "",
        "model": " ".join(parts) or ("" if broken else kind),
        "seed": run.config.get("seed"),
        "fold": run.config.get("fold"),
        "m0": score if number else None,
        "t0": None if number or score is None else plain(score),
        "findings": None if broken else len(run.findings),
        "created": "" if broken else began,
        "note": run.problem or run.reason or "",
    }


def _worded(state: str) -> str:
    return f"{SIGNS[state][0]} {state}"


def _table(groups: Sequence[Group], asked: Question) -> Any:
    rows = []
    for group in groups:
        if len(groups) > 1:
            rows.append(html.Tr(html.Th(group.title, colSpan=5, scope="rowgroup")))
        rows += [_table_row(row) for row in group.rows]
    if not rows:
        told = f"No finished run has {asked.score} on {asked.split} data."
        return html.P(told, className="note")
    titles = ["recipe", asked.score, f"minus {asked.base}", "rests on", "verdict"]
    return rows_table(titles, rows)


def _table_row(row: Quality) -> html.Tr:
    change = row.change
    cells = [interval(row.score)]
    if change is None:
        cells += ["–", row.over, "–"]
    else:
        verdict = change.effect.verdict
        cells += [
            interval(change.difference, sign=True),
            change.over,
            f"{_VERDICTS[verdict]} {verdict}",
        ]
    return html.Tr([html.Th(row.recipe, scope="row"), *(html.Td(cell) for cell in cells)])


def register(app: Dash, library: Library) -> None:
    """Everything follows the controls, and the folder."""
    names = ("score", "split", "base", "recipe", "status", "filter")

    @app.callback(
        Output("recipes", "figure"),
        Output("recipes", "style"),
        Output("recipes-table", "children"),
        Output("runs", "rowData"),
        Output("runs", "style"),
        Output("overview-shown", "children"),
        Output(control("overview", "filter"), "error"),
        Output("overview-counts", "children"),
        *[Input(control("overview", name), "value") for name in names],
        Input("look", "data"),
        Input("pulse", "data"),
        State("address", "search"),
    )
    def fill(*given: Any) -> tuple[Any, ...]:
        score, split, base, recipes, states, pattern, scheme, _, search = given
        asked = Question(score=score, split=split, base=base)
        runs = library.runs()
        chosen = compiled(pattern)
        kept = [
            run
            for run in runs
            if chosen.keeps(run.name)
            and (not states or ("unreadable" if run.problem else run.status) in states)
        ]
        compared = [run for run in kept if not recipes or run.recipe in [*recipes, base]]
        groups = quality(library, compared, asked)
        context = Context.of(app, library, search)
        rows = [
            _row(context, run, asked)
            for run in kept
            if not recipes or run.recipe in recipes or run.problem
        ]
        return (
            forest(groups, asked, dark=scheme == "dark"),
            {"height": height(groups)},
            _table(groups, asked),
            rows,
            {"height": _grid_height(len(rows)), "width": "100%"},
            f"{len(rows)} of {len(runs)} shown",
            chosen.problem,
            _counts(runs),
        )


PAGE = Page(path="/", title="Overview", sign="◎", layout=layout, register=register)
