"""Run files: one SQLite file per run with everything that was measured; see :func:`open`.

Reading takes no torch, so that a run can be opened wherever Python and NumPy are.
"""

from qprobe.records.layout import Batch, Layout
from qprobe.records.reader import RunReader, open  # noqa: A004 - qprobe.open reads like it
from qprobe.records.schema import (
    Array,
    Cause,
    Column,
    Finding,
    Meta,
    Metric,
    Point,
    Record,
    Role,
    RunInfo,
    Sample,
    Series,
    Severity,
    Status,
    severity,
)
from qprobe.records.writer import RunWriter, create, resume

__all__ = [
    "Array",
    "Batch",
    "Cause",
    "Column",
    "Finding",
    "Layout",
    "Meta",
    "Metric",
    "Point",
    "Record",
    "Role",
    "RunInfo",
    "RunReader",
    "RunWriter",
    "Sample",
    "Series",
    "Severity",
    "Status",
    "create",
    "open",
    "resume",
    "severity",
]
