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

from qprobe.analyzers.view import Row, View
from qprobe.analyzers.weights.overview import Kept
from qprobe.analyzers.wording import limits, number
from qprobe.records import Finding, Severity
from qprobe.records.schema import Cause

ROWS = 5
#: Weights of healthy layers keep as much as their median by this; who is the lowest is an accident.
_ODD_DB = 1.0
_STYLES = {Severity.CRITICAL: "bold red", Severity.WARN: "yellow", Severity.INFO: ""}


def render(seen: View, title: str, file: Path | None, notes: Sequence[str] = ()) -> RenderableType:
    """Verdict, layers, caveats, what is open, and what to do next; no text of others is markup."""
    style = "bold red" if seen.problem else "bold green"
    parts: list[RenderableType] = [Text(title, style="dim"), Text(seen.verdict, style=style)]
    if seen.rows:
        parts += [Text(""), *_layers(seen.rows[:ROWS])]
        if len(seen.rows) > ROWS:
            where = "records" if file is None else file
            left = len(seen.rows) - ROWS
            parts.append(
                Text(f"{left} more {'is' if left == 1 else 'are'} in {where}.", style="dim")
            )
    if seen.kept:
        parts += [Text(""), _kept(seen.kept)]
    lines = [*(f"Note: {note}." for note in notes), *seen.caveats, *_not_measured(seen)]
    if lines:
        parts += [Text(""), *(Text(line, style="dim") for line in lines)]
    if file is not None:
        # Commands are copied, so a narrow terminal must not break them.
        commands = [Text(line, no_wrap=True, overflow="ignore") for line in _next(seen, file)]
        parts += [Text(""), *commands]
    return Group(*parts)


def _not_measured(seen: View) -> Iterator[str]:
    """One sentence: who did not measure, and in brackets why."""
    parts = (one.partition(": ") for one in seen.not_measured)
    told = [f"{names} ({why})" if why else names for names, _, why in parts]
    if told:
        yield f"Not measured: {'; '.join(told)}."


def as_json(seen: View, findings: Sequence[Finding], facts: Mapping[str, Any]) -> str:
    """Everything, for machines: numbers that are not finite as text."""
    whole = {**facts, **asdict(seen), "findings": [asdict(one) for one in findings]}
    return json.dumps(_plain(whole), indent=2, allow_nan=False, ensure_ascii=False)


def _layers(rows: Sequence[Row]) -> list[RenderableType]:
    """A table where layers have a cost or a place, sentences where a statistic found them."""
    if all(row.cost is None and not row.found.startswith("screened") for row in rows):
        return [part for row in rows for part in _sentences(row)]
    columns = {
        "layer": [Text(row.site or "the model", style=_STYLES[row.severity]) for row in rows],
        "costs": [Text(_cost(row)) for row in rows],
        "cause": [Text(_cause(row)) for row in rows],
        "remedy": [Text(row.remedy or "-") for row in rows],
        "verified": [Text(row.verified or "not tried") for row in rows],
    }
    if not any(row.verified for row in rows):
        del columns["verified"]
    for name in ("cause", "remedy"):  # of layers that were only screened nothing is known
        if all(cell.plain == "-" for cell in columns[name]) and not any(row.cost for row in rows):
            del columns[name]
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold", min_width=len(name))
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return [table]


def _kept(kept: Sequence[Kept]) -> Table:
    """What each format keeps of the weights."""
    table = Table(box=None, pad_edge=False)
    for name in ("format", "median", "lowest", "at"):
        table.add_column(
            name, overflow="fold", justify="left" if name in ("format", "at") else "right"
        )
    for one in kept:
        numbers = (f"{one.median_db:.1f} dB", f"{one.lowest_db:.1f} dB")
        odd = one.median_db - one.lowest_db >= _ODD_DB
        table.add_row(Text(one.format), *numbers, Text(one.site if odd else "-"))
    return table


def _sentences(row: Row) -> Iterator[RenderableType]:
    """What was found, with the name of the layer before it unless it is named there."""
    style = _STYLES[row.severity] or "bold"
    found = Text(row.found)
    if not (row.site and found.highlight_words([row.site], style)):
        yield Text(row.site or "the model", style=style)
        found.pad_left(2)
    yield found
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
