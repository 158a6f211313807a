"""The layers of a run, ranked by their latest measurements."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qprobe.cli.durations import spoken
from qprobe.records import Meta, RunReader, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A column of the table, and which end of it is the bad one."""

    title: str
    probe: str
    key: str
    low_is_worse: bool = False
    form: str = "{:.1f}"

    def badness(self, value: float) -> float:
        """Larger is worse; NaN is worst."""
        if math.isnan(value):
            return math.inf
        return -value if self.low_is_worse else value


MEASURES: Mapping[str, Measure] = {
    "nvfp4": Measure(title="NVFP4 dB", probe="four_bit", key="nvfp4.sqnr_db", low_is_worse=True),
    "int4": Measure(title="INT4 dB", probe="four_bit", key="int4.sqnr_db", low_is_worse=True),
    "underflow": Measure(title="underflow", probe="four_bit", key="nvfp4.underflow", form="{:.1%}"),
    "kurtosis": Measure(title="kurtosis", probe="moments", key="kurtosis"),
    "channels": Measure(title="channel", probe="moments", key="channel_kurtosis_max"),
    "largest": Measure(title="largest", probe="moments", key="absmax", form="{:.3g}"),
}

Row = tuple[str, str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A run as it stands; ``rows`` are layer, tensor and latest values, worst first."""

    meta: Meta
    by: str
    step: int | None
    #: Latest of what the training and the session say of themselves, by ``probe.key``.
    state: Mapping[str, float]
    rows: tuple[Row, ...]
    idle_s: float


def look(run: RunReader, by: str) -> Look:
    """Read the latest values; layers that have none of ``by`` come last."""
    step: int | None = None
    state: dict[str, float] = {}
    for probe in ("training", "session"):
        for column, series in run.select(site="", probe=probe):
            state[f"{probe}.{column.key}"] = float(series.values[-1])
            step = max(step or 0, int(series.steps[-1]))
    latest: dict[tuple[str, str], dict[str, float]] = {}
    for name, measure in MEASURES.items():
        for column, series in run.select(site="?*", probe=measure.probe, key=measure.key):
            latest.setdefault((column.site, column.role), {})[name] = float(series.values[-1])
            step = max(step or 0, int(series.steps[-1]))
    rows = [(site, role, values) for (site, role), values in latest.items()]
    rows.sort(key=lambda row: _badness(row, by), reverse=True)
    return Look(
        meta=run.meta,
        by=by,
        step=step,
        state=state,
        rows=tuple(rows),
        idle_s=_idle_s(run.path),
    )


def render(seen: Look, count: int) -> RenderableType:
    """A line on the run, the table, and what is not shown."""
    parts: list[RenderableType] = [Text(_heading(seen), style="bold"), Text(_state(seen))]
    if not seen.rows:
        parts.append(
            Text("No layer has been measured yet: the run was trained without probes, or just now.")
        )
        return Group(*parts)
    shown = [name for name in MEASURES if any(name in row[2] for row in seen.rows)]
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("tensor", no_wrap=True)
    for name in shown:
        style = "bold" if name == seen.by else ""
        table.add_column(MEASURES[name].title, justify="right", style=style, no_wrap=True)
    for site, role, values in seen.rows[:count]:
        cells = [MEASURES[name].form.format(values[name]) if name in values else "-"
                 for name in shown]  # fmt: skip
        table.add_row(Text(site), Text(role), *cells)
    parts.append(table)
    left = len(seen.rows) - count
    if left > 0:
        parts.append(Text(f"{left} more are better by {MEASURES[seen.by].title}."))
    return Group(*parts)


def _badness(row: Row, by: str) -> float:
    return MEASURES[by].badness(row[2][by]) if by in row[2] else -math.inf


def _heading(seen: Look) -> str:
    config = seen.meta.config
    words = [str(config[name]) for name in ("arch", "size") if name in config]
    where = "" if seen.step is None else f"step {seen.step}"
    total = config.get("steps")
    if where and isinstance(total, int):
        where += f" of {total}"
    return "  ".join(
        part for part in (" ".join(words), seen.meta.recipe, where, _end(seen)) if part
    )


def _end(seen: Look) -> str:
    if seen.meta.status is Status.RUNNING:
        late = f", nothing new for {spoken(seen.idle_s)}" if seen.idle_s >= 60 else ""
        return f"running{late}"
    reason = f": {seen.meta.reason}" if seen.meta.reason else ""
    return f"{seen.meta.status}{reason}"


def _state(seen: Look) -> str:
    return "  ".join(_facts(seen.state))


def _facts(state: Mapping[str, float]) -> Iterator[str]:
    for key, form in (
        ("training.loss", "loss {:.4g}"),
        ("training.lr", "learning rate {:.3g}"),
        ("session.interval", "looked at every {:.0f} steps"),
        ("session.overhead_percent", "probes cost {:.1f}%"),
    ):
        if key in state:
            yield form.format(state[key])


def _idle_s(path: Path) -> float:
    """Seconds since somebody wrote: into the file, or into its log."""
    places = (path, path.with_name(f"{path.name}-wal"))
    written = max((place.stat().st_mtime for place in places if place.exists()), default=0.0)
    return max(0.0, time.time() - written)
