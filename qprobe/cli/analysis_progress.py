"""How far an analysis is: a bar with the time left on a terminal, a line per stage in a pipe."""

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from qprobe.analyzers.analysis import Watcher
from qprobe.analyzers.short_run_findings import LOSS, TOTAL
from qprobe.analyzers.short_run_findings import PROBE as SHORT_RUN
from qprobe.analyzers.weights.measurement import PROBE as WEIGHTS
from qprobe.analyzers.weights.measurement import TOTAL as WEIGHTS_TOTAL
from qprobe.cli.durations import spoken
from qprobe.records.schema import Array, Record

#: About which share of its stage is over when a key of the dequantization is seen.
_MILESTONES = {
    "gap": 0.15, "screen": 0.25, "stopped": 0.45, "recovery": 0.5, "agreement": 0.6,
    "kind": 0.7, "cumulative": 0.85, "sensitivity": 0.92, "lost_decrease": 0.98,
}  # fmt: skip


def watcher() -> Watcher:
    """The right one for where standard error goes."""
    return Bar() if sys.stderr.isatty() else Lines()


class Lines(Watcher):
    """A plain line for each stage."""

    def stages(self, names: Sequence[str]) -> None:
        """Remember how many there are."""
        self._names = list(names)
        self._number = 0
        self._began = time.monotonic()

    def stage(self, name: str) -> None:
        """Say which one begins."""
        self._number += 1
        seconds = round(time.monotonic() - self._began)
        spent = f", after {spoken(seconds)}" if seconds >= 10 else ""
        line = f"[{self._number}/{max(self._number, len(self._names))}] {name}{spent}"
        print(line, file=sys.stderr, flush=True)


class Bar(Watcher):
    """One bar over all stages, each as long as any other, and the time that is left."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[site]}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._done = -1
        #: Steps of short runs that were taken, of how many.
        self._trained, self._steps = 0, 0.0
        #: Weights that were begun, of how many.
        self._sites, self._weights = set[str](), 0.0

    def stages(self, names: Sequence[str]) -> None:
        """Show the bar."""
        self._task = self._progress.add_task("analyzing", total=len(names), site="")
        self._names = list(names)
        self._progress.start()

    def stage(self, name: str) -> None:
        """Move to the next stage."""
        self._done += 1
        self._progress.update(self._task, description=name, completed=self._done)

    def seen(self, one: Record | Array) -> None:
        """Move within the stage as far as is known."""
        share = self._share(one)
        task = self._progress.tasks[0]
        completed = max(task.completed, self._done + share)
        self._progress.update(self._task, completed=completed, site=one.site[-40:])

    def _share(self, one: Record | Array) -> float:
        """About how much of its stage is over."""
        if one.probe == WEIGHTS:
            return self._of_weights(one)
        if one.probe != SHORT_RUN:
            return _MILESTONES.get(one.key.partition(".")[0], 0.0) if one.probe else 0.0
        if isinstance(one, Record) and one.key == TOTAL:
            self._steps = one.value
        self._trained += one.key.startswith(LOSS)
        return min(1.0, self._trained / self._steps) if self._steps else 0.0

    def _of_weights(self, one: Record | Array) -> float:
        if isinstance(one, Record) and one.key == WEIGHTS_TOTAL:
            self._weights = one.value
        self._sites.add(one.site)
        return min(1.0, (len(self._sites) - 1) / self._weights) if self._weights else 0.0

    def close(self) -> None:
        """Take it away."""
        self._progress.stop()
