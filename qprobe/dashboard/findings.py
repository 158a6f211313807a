"""Findings as cards: what fails, how sure, and what to do."""

from typing import Any

from dash import html

from qprobe.dashboard.attributes import data
from qprobe.dashboard.components import status
from qprobe.dashboard.context import Context
from qprobe.dashboard.findings_order import Told
from qprobe.dashboard.numerals import plain, short
from qprobe.records import Finding


def finding_card(context: Context, told: Told) -> html.Article:
    """One finding; its layers are links, and who else has it is folded away."""
    run, finding = told.run, told.finding
    cause = finding.cause.replace("_", " ")
    links: list[Any] = []
    for site in finding.sites[:12]:
        links += [
            html.A(
                short(site, 60),
                href=context.link("/layer", run=run.name, layer=site),
                className="mono",
                title=site,
                **data(go="true", failing="true"),
            ),
            "  ",
        ]
    left = len(finding.sites) - 12
    return html.Article(
        [
            html.Div(
                [status(finding.severity), html.Strong(finding.claim, className="claim")],
                className="line",
            ),
            html.P([*links, f"and {left} more" if left > 0 else None]),
            html.P(
                [*_effect(finding), f", cause: {cause}"]
            ),
            html.P([html.Strong("Remedy. "), finding.remedy]),
            html.P(
                f"Control: {finding.control}. {finding.analyzer}, {run.name}. {finding.reference}",
                className="note",
            ),
            _others(told),
        ],
        className="finding",
    )  # fmt: skip


def _others(told: Told) -> Any:
    """Older runs with the same finding, each with its own number."""
    if not told.others:
        return None
    count = len(told.others)
    others = "another run has" if count == 1 else f"{count} other runs have"
    agree = "with another severity or interval" if told.disputed else "and agrees"
    if count > 1 and not told.disputed:
        agree = "and agree"
    rows = [
        html.Li(
            [html.Span(run.name, className="mono"), f": {finding.severity}, ", *_effect(finding)]
        )
        for run, finding in told.others
    ]
    return html.Details(
        [html.Summary(f"{others} this finding too, {agree}"), html.Ul(rows)], className="note"
    )


def _effect(finding: Finding) -> list[Any]:
    return [
        html.Strong(plain(finding.effect)), f" {finding.unit} ",
        f"[{plain(finding.low)}, {plain(finding.high)}], n = {finding.n:,}",
    ]  # fmt: skip
