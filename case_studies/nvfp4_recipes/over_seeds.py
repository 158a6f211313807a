"""Numbers over paired seeds beyond a mean: ratios, slopes and what a table shows of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from number import Number, mean


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the page: a title, the heads of its columns, and rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def ratio(
    first: Mapping[int, float], second: Mapping[int, float], unit: str = "×"
) -> Number | None:
    """Geometric mean of ``first / second`` over the seeds that both have, with its t interval.

    >>> ratio({0: 2.0, 1: 8.0}, {0: 1.0, 1: 1.0, 2: 5.0}).estimate
    4.0
    """
    seeds = sorted(first.keys() & second.keys())
    logs = mean([math.log(first[seed] / second[seed]) for seed in seeds])
    if logs is None:
        return None
    estimate, low, high = (math.exp(one) for one in (logs.estimate, logs.low, logs.high))
    return Number(estimate=estimate, low=low, high=high, n=logs.n, unit=unit)


def slope(curves: Iterable[Mapping[float, float]], unit: str = "") -> Number | None:
    """The mean over curves (one a seed) of the least-squares slope over the curve's keys.

    >>> slope([{0.0: 1.0, 1.0: 3.0}, {0.0: 0.0, 1.0: 4.0}]).estimate
    3.0
    """
    found = []
    for curve in curves:
        x, y = np.asarray(list(curve)), np.asarray(list(curve.values()))
        off = x - x.mean()
        found.append(float(off @ y / (off @ off)))
    return mean(found, unit)


def table(
    title: str, head: str, columns: Sequence[str], rows: Mapping[str, Sequence[Number | None]]
) -> Table:
    """Numbers under their columns; an empty cell was not measured."""
    return Table(
        title=title,
        columns=(head, *columns),
        rows=tuple(
            (name, *("–" if one is None else one.shown() for one in numbers))
            for name, numbers in rows.items()
        ),
    )
