"""Layers × measures of one run at one step, as its file has them: nothing is known in advance."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from qprobe.dashboard.measures import RECOVERY, Measure
from qprobe.records import Column, RunReader

Floats = NDArray[np.float64]

_PART = re.compile(r"^(head|branch)\d+\.")
#: What is no property of a single layer: branches, kinds and pairs of layers.
_NO_LAYER: Final = ("kind.", "interaction", "cumulative")
#: What is recorded of a training, a session or an analysis and names no layers, counts pictures, or
#: is of modules that hold layers.
_NO_PROBES: Final = (
    "training", "session", "analysis", "branch_energy", "attention_maps", "derivatives",
)  # fmt: skip
#: Both operands of the forward product, as the recipe takes them.
_FORWARD: Final = ("fprop.x.sqnr_db", "fprop.w.sqnr_db")


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerTable:
    """``values[site, measure]``; NaN there is a NaN that was measured only where ``there`` is."""

    sites: tuple[str, ...]
    measures: tuple[Measure, ...]
    values: Floats
    there: NDArray[np.bool_]
    last_step: int

    def at(self, site: str, measure: Measure) -> float | None:
        """One value, or None where nothing was measured."""
        row, column = self.sites.index(site), self.measures.index(measure)
        return float(self.values[row, column]) if self.there[row, column] else None

    def only(self, sites: Sequence[str], measures: Sequence[Measure]) -> "LayerTable":
        """A part, in the order given."""
        places = {site: place for place, site in enumerate(self.sites)}
        rows = np.array([places[site] for site in sites], dtype=np.intp)
        columns = np.array([self.measures.index(one) for one in measures], dtype=np.intp)
        return LayerTable(
            sites=tuple(sites),
            measures=tuple(measures),
            values=self.values[np.ix_(rows, columns)],
            there=self.there[np.ix_(rows, columns)],
            last_step=self.last_step,
        )

    def measured(self) -> "LayerTable":
        """Without the layers of which there is no value."""
        known = np.flatnonzero(self.there.any(axis=1)).tolist()
        return self.only([self.sites[place] for place in known], self.measures)

    def named(self, names: Sequence[str]) -> list[Measure]:
        """The measures with these names."""
        by_name = {measure.name: measure for measure in self.measures}
        return [by_name[name] for name in names if name in by_name]

    def telling(self, most: int = 12) -> list[Measure]:
        """The measures to look at first."""
        kept = [measure for measure in self.measures if not measure.is_neutral]
        return sorted(kept or self.measures, key=lambda one: one.priority)[:most]

    @cached_property
    def shares(self) -> Floats:
        """``[site, measure]`` from 0, the best, to 1, the worst, by rank; NaN: not measured.

        Equal values share the mean of their ranks. NaN and infinity that were measured are worst.
        """
        found = np.full(self.values.shape, np.nan)
        for column, measure in enumerate(self.measures):
            there = self.there[:, column]
            values = self.values[there, column]
            badness = -values if measure.higher_is_better else values
            badness = np.where(np.isfinite(values), badness, np.inf)
            if len(values):
                found[there, column] = (rankdata(badness) - 1) / max(1, len(values) - 1)
        return found

    @cached_property
    def worst_first(self) -> list[str]:
        """Every layer: by what it brings back alone where that was measured, then by the noise of
        its product, then by the mean of its ranks in the telling measures."""
        mean = mean_shares(self.only(self.sites, self.telling()))
        noise = np.nan_to_num(product_noise(self), nan=-1.0)
        recovered = np.full(len(self.sites), -np.inf)
        if RECOVERY in self.measures:
            column = self.measures.index(RECOVERY)
            recovered = np.where(self.there[:, column], self.values[:, column], -np.inf)
        return [self.sites[place] for place in np.lexsort((-mean, -noise, -recovered)).tolist()]


def layer_table(reader: RunReader, step: int | None = None) -> LayerTable:
    """The last values up to ``step``, None meaning the end.

    Single heads and the branches of fusions are left out: they have pages of their own.
    """
    cells: dict[tuple[str, Measure], float] = {}
    last = 0
    for column, point in reader.last(site="?*", until=step):
        if _is_of_a_layer(column):
            cells[column.site, Measure.of(column)] = point.value
            last = max(last, point.step)
    return _table(cells, last)


def _table(cells: Mapping[tuple[str, Measure], float], last: int) -> LayerTable:
    sites = _in_blocks(dict.fromkeys(site for site, _ in cells))
    measures = list(dict.fromkeys(measure for _, measure in cells))
    rows = {site: place for place, site in enumerate(sites)}
    columns = {measure: place for place, measure in enumerate(measures)}
    values = np.full((len(sites), len(measures)), np.nan)
    there = np.zeros(values.shape, dtype=np.bool_)
    for (site, measure), value in cells.items():
        values[rows[site], columns[measure]] = value
        there[rows[site], columns[measure]] = True
    return LayerTable(
        sites=tuple(sites), measures=tuple(measures), values=values, there=there, last_step=last
    )


def joined(tables: Sequence[LayerTable]) -> LayerTable:
    """The first table with what others measured of its layers, and of layers that it has not.

    Where two measured the same, the earlier table counts.
    """
    cells: dict[tuple[str, Measure], float] = {}
    for table in tables:
        for row, column in np.argwhere(table.there).tolist():
            value = float(table.values[row, column])
            cells.setdefault((table.sites[row], table.measures[column]), value)
    return _table(cells, tables[0].last_step)


def mean_shares(table: LayerTable) -> Floats:
    """The mean of each layer's :meth:`LayerTable.shares`; what was not measured of it counts as
    neither good nor bad, so that one bad number among few makes no worst layer."""
    if not table.measures:
        return np.full(len(table.sites), 0.5)
    found: Floats = np.where(table.there, table.shares, 0.5).mean(1)
    return found


def product_noise(table: LayerTable) -> Floats:
    """Share of noise in each layer's forward product, as its recipe takes both operands.

    Σ 10^(−SQNR/10) over x and w, which is exact for independent errors; NaN without either.

    >>> measure = Measure("input", "operand_error", "fprop.x.sqnr_db")
    >>> table = LayerTable(sites=("fc",), measures=(measure,), values=np.array([[10.0]]),
    ...                    there=np.array([[True]]), last_step=0)
    >>> product_noise(table).tolist()
    [0.1]
    """
    found = np.full(len(table.sites), np.nan)
    for column, measure in enumerate(table.measures):
        if measure.probe == "operand_error" and measure.key in _FORWARD:
            there = table.there[:, column] & ~np.isnan(table.values[:, column])
            noise = 10.0 ** (-table.values[there, column] / 10)
            found[there] = np.nan_to_num(found[there]) + noise
    return found


def block_and_module(site: str) -> tuple[str, str]:
    """Where a layer stands in a matrix of blocks and modules.

    The block ends with the last number that something follows; without one, the last name is the
    module.

    >>> block_and_module("blocks.3.attn.qkv"), block_and_module("blocks.3.mlp.0")
    (('blocks.3', 'attn.qkv'), ('blocks.3', 'mlp.0'))
    >>> block_and_module("head"), block_and_module("decoder.norm")
    (('', 'head'), ('decoder', 'norm'))
    """
    parts = site.split(".")
    numbers = [place for place, part in enumerate(parts[:-1]) if part.isdigit()]
    cut = numbers[-1] + 1 if numbers else len(parts) - 1
    return ".".join(parts[:cut]), ".".join(parts[cut:])


def _in_blocks(sites: Iterable[str]) -> list[str]:
    """Layers of a block side by side: probes name all that they look at, one probe after another.

    >>> _in_blocks(["stem.conv", "blocks.0.fc", "head", "stem.norm", "blocks.0.norm"])
    ['stem.conv', 'stem.norm', 'blocks.0.fc', 'blocks.0.norm', 'head']
    """
    blocks: dict[str, list[str]] = {}
    for site in sites:
        blocks.setdefault(block_and_module(site)[0] or site, []).append(site)
    return [site for block in blocks.values() for site in block]


def _is_of_a_layer(column: Column) -> bool:
    if column.role == "branch" or column.probe in _NO_PROBES:
        return False
    return not (_PART.match(column.key) or column.key.startswith(_NO_LAYER))
