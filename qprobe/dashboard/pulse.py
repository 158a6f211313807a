"""A word for the state of some runs: pages are drawn again when it changes."""

from collections.abc import Sequence

from qprobe.dashboard.library import Run


def pulse_of(runs: Sequence[Run]) -> str:
    """It changes when a run appears, is written to, ends or vanishes."""
    return str(hash(tuple((run.name, run.stamp, run.status) for run in runs)))
