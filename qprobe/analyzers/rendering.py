"""The report of an analysis on a terminal, and as JSON."""

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from qprobe.analyzers.view import Row, View, limits, number
from qprobe.records import Finding, Severity
from qprobe.records.schema import Cause

ROWS = 5
_STYLES = {Severity.CRITICAL: "bold red", Severity.WARN: "yellow", Severity.INFO: ""}


def render(seen: View, title: str, file: Path | None) -> RenderableType:
    """Verdict, layers, caveats, what is open, and what to do next; no text of others is markup."""
    style = "bold red" if seen.problem else "bold green"
    parts: list[RenderableType] = [Text(title, style="dim"), Text(seen.verdict, style=style)]
    rows = [row for row in seen.rows if seen.problem or row.severity is not Severity.INFO]
    if rows:
        parts += [Text(""), *_layers(rows[:ROWS])]
        if len(rows) > ROWS:
            where = "records" if file is None else file
            parts.append(Text(f"{len(rows) - ROWS} more are in {where}.", style="dim"))
    lines = [*seen.caveats, *(f"Not measured: {one}." for one in seen.not_measured)]
    if lines:
        parts += [Text(""), *(Text(line, style="dim") for line in lines)]
    if file is not None:
        # Commands are copied, so a narrow terminal must not break them.
        commands = [Text(line, no_wrap=True, overflow="ignore") for line in _next(seen, file)]
        parts += [Text(""), *commands]
    return Group(*parts)


def as_json(seen: View, findings: Sequence[Finding], facts: Mapping[str, Any]) -> str:
    """Everything, for machines: numbers that are not finite as text."""
    whole = {**facts, **asdict(seen), "findings": [asdict(one) for one in findings]}
    return json.dumps(_plain(whole), indent=2, allow_nan=False, ensure_ascii=False)


def _layers(rows: Sequence[Row]) -> list[RenderableType]:
    """A table where layers have a cost or a place, sentences where a statistic found them."""
    if all(row.cost is None and not row.found.startswith("screened") for row in rows):
        return [part for row in rows for part in _sentences(row)]
    verified = any(row.verified for row in rows)
    table = Table(box=None, pad_edge=False)
    for name in ("layer", "costs", "cause", "remedy", *(["verified"] if verified else [])):
        table.add_column(name, overflow="fold", min_width=len(name))
    for row in rows:
        cells = [
            Text(row.site or "the model", style=_STYLES[row.severity]),
            Text(_cost(row)),
            Text(_cause(row)),
            Text(row.remedy or "-"),
        ]
        table.add_row(*cells, *([Text(row.verified or "not tried")] if verified else []))
    return [table]


def _sentences(row: Row) -> Iterator[RenderableType]:
    yield Text(row.site or "the model", style=_STYLES[row.severity] or "bold")
    yield Padding(Text(row.found), (0, 0, 0, 2))
    known = row.cause is not Cause.NOT_EXPLAINED or row.ruled_out
    yield Padding(Text(f"{_cause(row)}: {row.remedy}" if known else row.remedy), (0, 0, 0, 2))


def _cause(row: Row) -> str:
    """The cause; where none is proven what was ruled out, a dash where nothing was looked for."""
    if row.cause is not Cause.NOT_EXPLAINED:
        return row.cause.replace("_", " ")
    return f"unknown: not {', not '.join(row.ruled_out)}" if row.ruled_out else "-"


def _cost(row: Row) -> str:
    if row.cost is None:
        return row.found
    share = "" if row.share is None else f" {row.share:.0%}"
    return f"{number(row.cost.estimate)} {limits(row.cost)}{share}"


def _next(seen: View, file: Path) -> Iterator[str]:
    name = shlex.quote(str(file))
    if seen.problem and any(row.cost is not None for row in seen.rows):
        if not any(row.verified for row in seen.rows):
            yield "Next: the same command with --verify --overwrite tries the remedies."
        yield f"Next: qprobe plan {name} --target 99%"
    yield f"Look:  qprobe dashboard {name}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value
