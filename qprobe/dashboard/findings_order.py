"""The order in which findings are read."""

from collections.abc import Sequence

from qprobe.dashboard.library import Run
from qprobe.records import Finding, Severity

_GRAVEST = list(reversed(Severity))


def gravest_first(runs: Sequence[Run]) -> list[tuple[Run, Finding]]:
    """Findings of several runs by severity, then in the order in which they were said."""
    every = [(run, finding) for run in runs for finding in run.findings]
    return sorted(every, key=lambda both: _GRAVEST.index(both[1].severity))


def how_grave(run: Run) -> int:
    """The place of a run's gravest finding, 0 the gravest there is."""
    places = (_GRAVEST.index(finding.severity) for finding in run.findings)
    return min(places, default=len(_GRAVEST))
