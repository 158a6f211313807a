"""What was recorded since the last flush, on its way to the file."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qprobe.records.layout import Layout
from qprobe.records.schema import Array, Column, Finding, Metric, Sample, Status


class NewSeries(NamedTuple):
    """A column that the file does not know yet."""

    number: int
    column: Column


class Point(NamedTuple):
    """One scalar that was recorded by itself."""

    series: int
    step: int
    value: float


class Row(NamedTuple):
    """One flush of a layout."""

    layout: Layout
    step: int
    values: NDArray[np.float64]
    present: NDArray[np.bool_] | None


class StoredArray(NamedTuple):
    """An array, under the number of its column."""

    series: int
    array: Array


class StatusChange(NamedTuple):
    """Where the run stands from now on."""

    status: Status
    reason: str | None


@dataclass(slots=True, kw_only=True)
class Window:
    """Everything that one transaction writes; either all of it is in the file or nothing."""

    series: list[NewSeries] = field(default_factory=list)
    layouts: list[Layout] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    arrays: list[StoredArray] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    status: StatusChange | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return any(getattr(self, name) for name in self.__dataclass_fields__)
