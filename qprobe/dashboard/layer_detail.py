"""What a run's file has about one layer."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qprobe.dashboard.decimate import decimated
from qprobe.records import Array, Column, RunReader, Series

#: Octaves of a histogram of magnitudes, and the exponent of the first.
OCTAVES, FIRST = 64, -40


@dataclass(frozen=True, kw_only=True, eq=False)
class Magnitudes:
    """How often |x| lies in ``[2^(i−40), 2^(i−39))``, and how often it is zero, NaN or infinite."""

    step: int
    octaves: NDArray[np.int64]
    zero: int | None
    nan: int | None
    infinite: int | None

    @property
    def largest(self) -> float | None:
        """The upper edge of the last octave with a value."""
        filled = np.flatnonzero(self.octaves)
        return float(2.0 ** (FIRST + filled[-1] + 1)) if filled.size else None


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerDetail:
    """Series by column, and histograms by role."""

    series: Mapping[Column, Series]
    magnitudes: Mapping[str, Magnitudes]

    def last(self, probe: str, role: str = "") -> dict[str, float]:
        """The last value of every key of a probe, of one role or of any."""
        return {
            column.key: float(series.values[-1])
            for column, series in self.series.items()
            if column.probe == probe and role in ("", column.role)
        }

    @property
    def roles(self) -> list[str]:
        """The tensors that were looked at."""
        return list(dict.fromkeys([*self.magnitudes, *(column.role for column in self.series)]))


def layer_detail(reader: RunReader, site: str) -> LayerDetail:
    """Everything about the layer with exactly this name."""
    exactly = literal(site)
    series = {column: decimated(found) for column, found in reader.select(site=exactly)}
    magnitudes: dict[str, Magnitudes] = {}
    for array in reader.arrays(site=exactly, key="magnitudes"):
        if array.data.shape == (OCTAVES,):
            magnitudes[array.role] = _magnitudes(array, series)
    return LayerDetail(series=series, magnitudes=magnitudes)


def _magnitudes(array: Array, series: Mapping[Column, Series]) -> Magnitudes:
    """With what was counted beside the octaves at the same look; None where it is not there."""

    def beside(key: str) -> int | None:
        found = series.get(Column(array.site, array.role, array.probe, key))
        if found is None:
            return None
        there = found.values[found.steps == array.step]
        return int(there[-1]) if len(there) else None

    return Magnitudes(
        step=array.step,
        octaves=array.data.astype(np.int64),
        zero=beside("zero"),
        nan=beside("nan"),
        infinite=beside("infinite"),
    )


def literal(name: str) -> str:
    """A pattern that only this name matches.

    >>> literal("a[0].*")
    'a[[]0].[*]'
    """
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
