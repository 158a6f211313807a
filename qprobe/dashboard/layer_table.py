"""Layers × measures of one run at one step, as its file has them: nothing is known in advance."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from qprobe.records import Column, RunReader

Floats = NDArray[np.float64]

#: Ends of keys of which more is better; of all others less is, or it is a matter of taste.
_MORE_IS_BETTER: Final = (
    "snr_db", "sqnr_db", "snr_qk_db", "snr_proj_db", "cosine", "levels_ratio", "level_ratio",
    "effective_values", "levels_quantized", "projection", "batch_cosine",
)  # fmt: skip
#: Counts and locations: shown in a list, but no sign of trouble.
_NEUTRAL: Final = ("n", "mean", "draws", "logit_std", "levels", "norm_ratio", "interval")
#: What is shown first, by the ends of keys, where there is more than fits.
_TELLING: Final = (
    "sqnr_db", "snr_db", "underflow", "saturation", "channel_kurtosis_max",
    "channel_kurtosis_p99", "token_kurtosis_max", "token_kurtosis_p99", "kurtosis", "cosine",
    "lost_decrease", "absmax", "relative_error", "nonfinite", "imbalance",
)  # fmt: skip
_PART = re.compile(r"^(head|branch)\d+\.")


class Measure(NamedTuple):
    """What was measured of a layer."""

    role: str
    probe: str
    key: str

    @classmethod
    def of(cls, column: Column) -> Self:
        return cls(column.role, column.probe, column.key)

    @property
    def name(self) -> str:
        """As addresses and labels have it."""
        return f"{self.key} ({', '.join(filter(None, (self.role.replace('_', ' '), self.probe)))})"

    @property
    def higher_is_better(self) -> bool:
        return self.key.endswith(_MORE_IS_BETTER)

    @property
    def is_neutral(self) -> bool:
        return self.key.rpartition(".")[2] in _NEUTRAL

    @property
    def is_logarithmic(self) -> bool:
        """Whether it spans orders of magnitude."""
        return "kurtosis" in self.key or "energy" in self.key or self.key == "absmax"


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

    def named(self, names: Sequence[str]) -> list[Measure]:
        """The measures with these names."""
        by_name = {measure.name: measure for measure in self.measures}
        return [by_name[name] for name in names if name in by_name]

    def telling(self, most: int = 12) -> list[Measure]:
        """The measures to look at first."""
        kept = [measure for measure in self.measures if not measure.is_neutral]
        return sorted(kept or self.measures, key=_priority)[:most]

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


def layer_table(reader: RunReader, step: int | None = None) -> LayerTable:
    """The last values up to ``step``, None meaning the end. Single heads and branches are left out:
    they have pages of their own."""
    cells: dict[tuple[str, Measure], float] = {}
    last = 0
    steps = None if step is None else range(step + 1)
    for column, series in reader.select(site="?*", steps=steps):
        if not _PART.match(column.key):
            cells[column.site, Measure.of(column)] = float(series.values[-1])
            last = max(last, int(series.steps[-1]))
    return _table(cells, last)


def _table(cells: Mapping[tuple[str, Measure], float], last: int) -> LayerTable:
    sites = list(dict.fromkeys(site for site, _ in cells))
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


def mean_shares(table: LayerTable) -> Floats:
    """The mean of each layer's :meth:`LayerTable.shares`, over what was measured of it."""
    shares = np.where(table.there, table.shares(), 0.0)
    found: Floats = shares.sum(1) / np.maximum(table.there.sum(1), 1)
    return found


def worst_first(table: LayerTable) -> list[str]:
    """Every layer by the mean of its ranks in the telling measures."""
    mean = mean_shares(table.only(table.sites, table.telling()))
    return [table.sites[place] for place in np.argsort(-mean, kind="stable").tolist()]


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


def _priority(measure: Measure) -> tuple[int, str]:
    places = [place for place, end in enumerate(_TELLING) if measure.key.endswith(end)]
    return (min(places) if places else len(_TELLING), measure.key)
