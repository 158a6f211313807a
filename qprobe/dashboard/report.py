"""One HTML file with the findings and the main charts: no server, no request, opens from a disk."""

import gzip
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from qprobe.dashboard import theme
from qprobe.dashboard.family import table_of
from qprobe.dashboard.figures.layers import fingerprint
from qprobe.dashboard.figures.overview import forest, height
from qprobe.dashboard.figures.per_layer import bars
from qprobe.dashboard.figures.per_layer import height as bars_height
from qprobe.dashboard.figures.predictions import curves
from qprobe.dashboard.findings_order import gravest_first
from qprobe.dashboard.layer_values import bars as bars_of
from qprobe.dashboard.layer_values import of_probe
from qprobe.dashboard.library import Library, Run
from qprobe.dashboard.numerals import interval, plain
from qprobe.dashboard.quality import Group, Question, histograms, quality
from qprobe.errors import InputError
from qprobe.records import Finding, Severity

#: Runs whose layers are drawn: those with findings or recoveries, the gravest first.
_RUNS = 6
_CURVES = 5
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)
_STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--quiet:#5c636a;--rule:#e6e8eb;--paper:#fff}
@media screen and (prefers-color-scheme:dark){
:root{--ink:#d5d8dd;--quiet:#a6a7ab;--rule:#3a3d42;--paper:#242424}}
body{font:14px/1.5 Inter,system-ui,sans-serif;max-width:1100px;margin:32px auto;padding:0 16px;
background:var(--paper);color:var(--ink);font-variant-numeric:tabular-nums}
h1,h2{letter-spacing:-.02em}h2{margin-top:40px}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:6px 10px;border-bottom:1px solid var(--rule);vertical-align:top}
.scroll{overflow-x:auto}.scroll td{min-width:90px}
small,.note{color:var(--quiet)}code{font-family:'JetBrains Mono',ui-monospace,monospace;
overflow-wrap:anywhere}article{border-top:1px solid var(--rule);padding:12px 0;
overflow-wrap:anywhere}
"""

#: Runs the packed library, and draws the charts in the colours of the system; paper is white.
_UNPACK = """
(async () => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const read = (id) => document.getElementById(id).textContent;
  const bytes = Uint8Array.from(atob(read("plotly")), (one) => one.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.body.appendChild(script);
  const config = JSON.parse(read("config"));
  const draw = (look) => document.querySelectorAll("[data-chart]").forEach((place) => {
    const told = place.querySelector(`script[data-look=${look}]`).textContent;
    const figure = JSON.parse(told);
    Plotly.react(place.firstElementChild, figure.data, figure.layout, config);
  });
  const now = () => draw(dark.matches ? "dark" : "light");
  now();
  dark.addEventListener("change", now);
  addEventListener("beforeprint", () => draw("light"));
  addEventListener("afterprint", now);
})();
"""


def write(library: Library, path: Path, asked: Question | None = None) -> Path:
    """Write the report; an existing file is replaced, and a report on nothing is refused."""
    runs = library.runs(now=True)
    if all(run.problem is not None for run in runs):
        why = next((run.problem for run in runs), "no run is in what was named.")
        raise InputError(f"there is nothing to report on: {why}")
    text = "".join(_document(library, asked or Question()))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"the report cannot be written to {path}: {error.strerror}; choose another place."
        ) from error
    return path


def _document(library: Library, asked: Question) -> Iterator[str]:
    runs = [run for run in library.runs(now=True) if run.problem is None]
    lost = [run for run in library.runs() if run.problem is not None]
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    yield (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width"><title>qprobe report</title>'
        f"{theme.ICON}"
        f"<style>{_STYLE}</style></head><body>"
        f'<h1>{_title(runs)}</h1><p class="note">{_about(runs)}{made}</p>'
    )
    if any(run.is_training for run in runs):  # an analysis is no training to compare
        groups = quality(library, runs, asked)
        yield "<h2>Quality against the baseline</h2>"
        yield _drawn(lambda dark: forest(groups, asked, dark=dark), height(groups))
        yield _table(groups, asked)
    yield "<h2>What fails</h2>"
    found = gravest_first(runs)
    # What is said of the whole model comes before what is said of a layer.
    whole = [one for one in found if not one[1].sites and one[1].severity is not Severity.INFO]
    rest = [one for one in found if one not in whole]
    yield "".join(_finding(*one) for one in (*whole, *rest)) or "<p>Nothing was found.</p>"
    yield from _predictions(library, runs)
    for run in sorted(runs, key=lambda one: -len(one.findings))[:_RUNS]:
        yield from _layers(library, run)
    if lost:
        problems = "".join(f"<li>{escape(run.problem or '')}</li>" for run in lost)
        yield f"<h2>Files that cannot be read</h2><ul>{problems}</ul>"
    yield f'<script type="application/json" id="config">{_json(theme.GRAPH_CONFIG)}</script>'
    yield f'<script type="text/plain" id="plotly">{_packed(get_plotlyjs())}</script>'
    yield f"<script>{_UNPACK}</script></body></html>"


def _title(runs: list[Run]) -> str:
    """What was analyzed, where it is one thing."""
    titles = {str(run.config["title"]) for run in runs if "title" in run.config}
    single = len(runs) == 1 and len(titles) == 1
    return escape(f"qprobe report: {titles.pop()}" if single else "qprobe report")


def _about(runs: list[Run]) -> str:
    if len(runs) != 1:
        return f"{len(runs)} runs, "
    layers = runs[0].config.get("layers")
    told = (runs[0].recipe, layers and f"layers {layers}", runs[0].name)
    return "".join(f"{escape(str(one))}, " for one in told if one)


def _packed(script: str) -> str:
    """A script at a third of its size; browsers since 2023 unpack it without a request."""
    return b64encode(gzip.compress(script.encode(), mtime=0)).decode()


def _drawn(draw: Callable[[bool], go.Figure], pixels: int) -> str:
    """A chart in both its looks: which one is shown is known when the report is opened."""
    looks = "".join(
        f'<script type="application/json" data-look="{look}">{_figure(draw(look == "dark"))}'
        "</script>"
        for look in ("light", "dark")
    )
    return f'<div data-chart><div style="height:{pixels}px"></div>{looks}</div>'


def _figure(figure: go.Figure) -> str:
    return _escaped(str(figure.to_json()))


def _json(value: object) -> str:
    return _escaped(json.dumps(value))


def _escaped(told: str) -> str:
    """JSON that cannot end the script that it stands in: names are data."""
    return told.replace("<", "\\u003c")


def _table(groups: list[Group], asked: Question) -> str:
    lines = []
    for group in groups:
        for row in group.rows:
            change = row.change
            cells = [
                row.recipe,
                group.title,
                interval(row.score),
                "" if change is None else interval(change.difference, sign=True),
                row.over if change is None else change.over,
                "" if change is None else change.effect.verdict,
            ]
            lines.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    heads = ("recipe", "group", asked.score, f"minus {asked.base}", "rests on", "verdict")
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    rows = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{rows}</div>'


def _finding(run: Run, finding: Finding) -> str:
    sites = "".join(f"<code>{escape(site)}</code> " for site in finding.sites)
    exact = finding.low == finding.high
    within = "" if exact else f" [{plain(finding.low)}, {plain(finding.high)}]"
    effect = f"{plain(finding.effect)} {finding.unit}{within}, n = {finding.n:,}"
    return (
        f"<article><b>{escape(finding.severity)}: {escape(finding.claim)}</b><br>"
        f"{sites and sites + '<br>'}"
        f"{escape(effect)}<br><b>Remedy.</b> {escape(finding.remedy)}<br>"
        f"<small>Control: {escape(finding.control)}. {escape(finding.analyzer)}, "
        f"{escape(run.name)}</small></article>"
    )


def _predictions(library: Library, runs: list[Run]) -> Iterator[str]:
    every = ((run, library.answer(run, histograms)) for run in runs)
    known = [(run.name, found.counts.sum(0)) for run, found in every if found is not None]
    if known:
        yield "<h2>Precision and recall</h2>" + _drawn(
            lambda dark: curves(known[:_CURVES], dark=dark), 440
        )


def _layers(library: Library, run: Run) -> Iterator[str]:
    table = table_of(library, run)
    values = library.answer(run, of_probe, "dequantization")
    recovered = bars_of(values, "recovery")
    chosen = [measure for measure in table.telling() if measure.probe != "dequantization"]
    if not chosen and not recovered:
        return
    yield f"<h2>Layers of {escape(run.name)}</h2>"
    if chosen:
        part = table.only(table.sites, chosen)
        seen = [site for site, there in zip(part.sites, part.there, strict=True) if there.any()]
        told = part.only(seen, chosen)
        yield "<p class='note'>Rank within each measure: bright is worst.</p>"
        yield _drawn(lambda dark: fingerprint(told, dark=dark), 440)
    if recovered:
        unit = f"{run.config.get('score') or 'score'} that the layer alone brings back"
        yield _drawn(lambda dark: bars(recovered, unit, dark=dark), bars_height(len(recovered)))
