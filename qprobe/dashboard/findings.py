"""Findings as cards: what fails, how sure, and what to do."""

from typing import Any

from dash import html

from qprobe.dashboard.attributes import data
from qprobe.dashboard.components import status
from qprobe.dashboard.context import Context
from qprobe.dashboard.library import Run
from qprobe.dashboard.numerals import plain, short
from qprobe.records import Finding


def finding_card(context: Context, run: Run, finding: Finding) -> html.Article:
    """One finding; its layers are links."""
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
                [
                    html.Strong(plain(finding.effect)), f" {finding.unit} ",
                    f"[{plain(finding.low)}, {plain(finding.high)}], n = {finding.n:,}, ",
                    f"cause: {cause}",
                ]
            ),
            html.P([html.Strong("Remedy. "), finding.remedy]),
            html.P(
                f"Control: {finding.control}. {finding.analyzer}, {run.name}. {finding.reference}",
                className="note",
            ),
        ],
        className="finding",
    )  # fmt: skip
