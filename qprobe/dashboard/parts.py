"""Series of the parts of a layer: the heads of an attention, the branches of a fusion."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qprobe.dashboard.decimate import decimated
from qprobe.records import Column, RunReader, Series

#: What the name of a probe ends in where the model was in high precision.
_CONTROL = ".high_precision"


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One measure of one part: ``head`` 3 of ``blocks.2.attn``, say."""

    site: str
    number: int
    key: str
    series: Series
    #: Whether the same was measured in high precision, to compare with.
    is_control: bool = False


def parts(reader: RunReader, word: str) -> list[Part]:
    """Everything that was recorded under keys like ``head3.snr_db``, for the word ``head``."""
    found = []
    for column, series in reader.select(site="?*", key=f"{word}[0-9]*.*"):
        number, _, key = column.key.removeprefix(word).partition(".")
        if number.isdigit():
            found.append(Part(
                site=column.site, number=int(number), key=key, series=decimated(series),
                is_control=is_control(column),
            ))  # fmt: skip
    return found


def is_control(column: Column) -> bool:
    """Whether an analysis measured it in high precision: it files that under a name of its own.

    >>> is_control(Column("decoder.0/cat.0", "output", "branch_energy.high_precision", "imbalance"))
    True
    """
    return column.probe.endswith(_CONTROL)


def grid(found: Sequence[Part], key: str) -> tuple[list[str], list[int], np.ndarray]:
    """Sites, numbers, and the last value of one measure ``[site, number]``; NaN where none is."""
    kept = [part for part in found if part.key == key and len(part.series)]
    sites = list(dict.fromkeys(part.site for part in kept))
    numbers = sorted({part.number for part in kept})
    values = np.full((len(sites), len(numbers)), np.nan)
    for part in kept:
        at = sites.index(part.site), numbers.index(part.number)
        values[at] = part.series.values[-1]
    return sites, numbers, values
