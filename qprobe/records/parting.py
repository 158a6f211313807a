"""Where two runs part: the first step, and there the first layer, at which their numbers differ."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qprobe.errors import InputError
from qprobe.records.reader import RunReader
from qprobe.records.schema import Column, Role, Series

#: In which order a step computes the tensors of one module, forward and then backward.
_FORWARD = (Role.INPUT, Role.ATTN_LOGITS, Role.ATTN_PROBS, Role.OUTPUT)
_BACKWARD = (Role.GRAD_OUTPUT, Role.BRANCH, Role.GRAD_WEIGHT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One value that two runs do not share.

    ``relative`` is |a − b| over the larger magnitude: at most 2, and infinite where only one of the
    two is a finite number.
    """

    step: int
    column: Column
    first: float
    second: float
    relative: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """What two runs share and where they part.

    ``differences`` are those of the first step that has any, in the order in which a step computes
    them: forward through the layers, then the loss, then backward, then the weights. It is empty
    where the runs agree in everything that both have.
    """

    differences: tuple[Difference, ...]
    #: Values that were compared, and the last step that both have.
    compared: int
    last_step: int | None
    only_first: tuple[Column, ...]
    only_second: tuple[Column, ...]

    @property
    def step(self) -> int | None:
        """The first step at which a value differs."""
        return self.differences[0].step if self.differences else None


def parting(first: RunReader, second: RunReader, tolerance: float = 0.0) -> Parting:
    """Compare what both runs measured, where both measured it.

    A difference counts when it is larger than ``tolerance``, relative to the larger magnitude; 0
    asks for the same bits, but that 0 equals −0. Two NaN are equal, and so are infinities of one
    sign. Times, and what a session says of itself, are left out: they differ between any two runs.
    """
    if not 0 <= tolerance < 1:
        raise InputError(f"a tolerance is a share from 0 to below 1, got {tolerance}.")
    mine, theirs = _measured(first), _measured(second)
    found: list[Difference] = []
    compared, last = 0, None
    for column in (column for column in mine if column in theirs):
        steps, a, b = _common(mine[column], theirs[column])
        if not len(steps):
            continue
        compared += len(steps)
        last = max(last or 0, int(steps[-1]))
        relative = _relative(a, b)
        parted = np.flatnonzero(relative > tolerance)
        if len(parted):
            at = int(parted[0])
            found.append(
                Difference(
                    step=int(steps[at]),
                    column=column,
                    first=float(a[at]),
                    second=float(b[at]),
                    relative=float(relative[at]),
                )
            )
    earliest = min((one.step for one in found), default=None)
    order = _Order(mine)
    return Parting(
        differences=tuple(
            sorted((one for one in found if one.step == earliest), key=lambda d: order(d.column))
        ),
        compared=compared,
        last_step=last,
        only_first=tuple(column for column in mine if column not in theirs),
        only_second=tuple(column for column in theirs if column not in mine),
    )


class _Order:
    """The place of a column in the computation of a step; layers as the first run named them."""

    def __init__(self, columns: Mapping[Column, Series]) -> None:
        sites = dict.fromkeys(column.site for column in columns)
        self._layers = {site: place for place, site in enumerate(sites)}
        self._columns = {column: place for place, column in enumerate(columns)}

    def __call__(self, column: Column) -> tuple[int, int, int, int]:
        layer, place = self._layers[column.site], self._columns[column]
        if column.role in _FORWARD:
            return 0, layer, _FORWARD.index(Role(column.role)), place
        if column.role in _BACKWARD:
            return 2, -layer, _BACKWARD.index(Role(column.role)), place
        return (1 if not column.site else 3), layer, 0, place


def _measured(run: RunReader) -> dict[Column, Series]:
    return {column: series for column, series in run.select() if not _clocked(column)}


def _clocked(column: Column) -> bool:
    """Whether a value is a time, in seconds or in passes of the model, or the session's own."""
    if column.probe == "training":
        return column.key.endswith("_s")
    in_passes = column.probe == "dequantization" and column.key.startswith("passes.")
    return in_passes or column.probe == "session"


def _common(
    one: Series, two: Series
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    steps, left, right = np.intersect1d(
        one.steps, two.steps, assume_unique=True, return_indices=True
    )
    return steps, one.values[left], two.values[right]


def _relative(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a) & np.isfinite(b)
    larger = np.maximum(np.abs(a), np.abs(b))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        # Divided first: the difference of two finite numbers may be too large for one.
        found = np.abs(a / larger - b / larger)
    return np.where(same, 0.0, np.where(finite, found, math.inf))
