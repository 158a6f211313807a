"""The layers of a run, ranked by their latest measurements."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
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

#: Columns in which the name of a layer can still be read, over several lines.
_NAME = 16
#: Columns between two columns.
_GAP = 2

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
        why = (
            "this is an analysis, which the dashboard shows"
            if seen.meta.config.get("kind") == "analysis"
            else "the run was trained without probes, or has only begun"
        )
        parts.append(Text(f"No layer has been watched yet: {why}."))
        return Group(*parts)
    shown = [name for name in MEASURES if any(name in row[2] for row in seen.rows)]
    parts += [_Layers(seen, shown, count), *_rest(seen, shown, count)]
    return Group(*parts)


@dataclass(frozen=True, slots=True)
class _Layers:
    """The table, as wide as there is room: a layer without its name would say nothing."""

    seen: Look
    shown: Sequence[str]
    count: int

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        names = list(self.shown)
        # The measure that ranks stays; of the others those to the right go first.
        for name in reversed(self.shown):
            if sum(self._widths(names)) + _GAP * (len(names) + 1) <= options.max_width:
                break
            if name != self.seen.by:
                names.remove(name)
        yield self._table(names)

    def _table(self, names: Sequence[str]) -> Table:
        table = Table(box=None, pad_edge=False)
        layer, tensor, *widths = self._widths(names)
        table.add_column("layer", overflow="fold", min_width=layer)
        table.add_column("tensor", no_wrap=True, min_width=tensor)
        for name, width in zip(names, widths, strict=True):
            style = "bold" if name == self.seen.by else ""
            title = MEASURES[name].title
            table.add_column(title, justify="right", style=style, no_wrap=True, min_width=width)
        for site, role, values in self._rows:
            table.add_row(Text(site), Text(role), *(_cell(name, values) for name in names))
        return table

    def _widths(self, names: Sequence[str]) -> list[int]:
        """The least that each column needs; names of layers may be broken, numbers may not."""
        rows = self._rows
        return [
            min(_NAME, max(len(site) for site, _, _ in rows)),
            max(len("tensor"), *(len(role) for _, role, _ in rows)),
            *(
                max(len(MEASURES[name].title), *(len(_cell(name, one)) for _, _, one in rows))
                for name in names
            ),
        ]

    @property
    def _rows(self) -> tuple[Row, ...]:
        return self.seen.rows[: self.count]


def _cell(name: str, values: Mapping[str, float]) -> str:
    return MEASURES[name].form.format(values[name]) if name in values else "-"


def _rest(seen: Look, shown: Sequence[str], count: int) -> Iterator[Text]:
    """What the table does not show; and that it is no ranking, where nothing was there to rank."""
    left = len(seen.rows) - count
    title = MEASURES[seen.by].title
    if seen.by not in shown:
        more = f"; {left:,} more in the run" if left > 0 else ""
        others = " or ".join(f"--by {name}" for name in shown)
        yield Text(f"No layer has {title}, so these are in no order{more}; rank with {others}.")
    elif left > 0:
        yield Text(f"{left:,} more {'is' if left == 1 else 'are'} better by {title}.")


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
