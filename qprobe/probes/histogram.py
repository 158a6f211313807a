"""How often each octave of magnitude occurs in a tensor."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qprobe.probes.base import Field, SiteView
from qprobe.probes.batched import Batched, Values
from qprobe.probes.selection import WATCHED, watched
from qprobe.records.schema import Role
from qprobe.sites import Site
from qprobe.stats.histogram import MAGNITUDES, MagnitudeHistogram
from qprobe.stats.missing import ratio

_QUANTILES = {"log2_p1": 0.01, "log2_median": 0.5, "log2_p99": 0.99}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Octaves(Batched):
    """Parts of a summary, in its memory."""

    #: :class:`~qprobe.stats.histogram.MagnitudeHistogram` of the sampled tokens, int64.
    counts: Tensor
    #: NaN and infinite elements of the whole tensor, int64[2].
    nonfinite: Tensor

    def merge(self, other: "Octaves") -> "Octaves":
        return Octaves(
            counts=self.counts + other.counts, nonfinite=self.nonfinite + other.nonfinite
        )

    def to(self, device: torch.device | str) -> "Octaves":
        return Octaves(counts=self.counts.to(device), nonfinite=self.nonfinite.to(device))

    @classmethod
    def values(cls, states: Sequence["Octaves"]) -> Values:
        """``n`` and zeros of the sample, NaN and infinity of all, and quantiles in octaves."""
        histogram = MagnitudeHistogram(counts=torch.stack([state.counts for state in states]))
        nan, infinite = torch.stack([state.nonfinite for state in states]).unbind(-1)
        n, some = histogram.counts.sum(-1), histogram.bins.sum(-1) > 0
        every = torch.ones_like(some)
        return {
            "n": (n, every),
            "zero": (histogram.zero, every),
            "nan": (nan, every),
            "infinite": (infinite, every),
            "zero_fraction": (ratio(histogram.zero, n), n > 0),
            **{name: (histogram.log2_quantile(q), some) for name, q in _QUANTILES.items()},
        }

    def arrays(self) -> Mapping[str, Tensor]:
        """64 octaves from 2⁻⁴⁰ on, without zero, NaN and infinity."""
        return {"magnitudes": self.counts[:MAGNITUDES]}


class Histogram:
    """Magnitudes of a tensor in 64 octaves, with zero, NaN and infinity apart.

    Bin i counts ``2^(i−40) ≤ |x| < 2^(i−39)``. Octaves and zeros are those of one token in eight;
    NaN and infinity are counted in the whole tensor. States look into the summary they came from.
    """

    name = "histogram"
    needs: frozenset[Role | Field] = frozenset({Field.HISTOGRAM})
    every: ClassVar[int] = 10

    def __init__(self, roles: Iterable[Role | str] = WATCHED) -> None:
        self._roles = watched(roles)

    def selects(self, site: Site) -> bool:
        return site.role in self._roles

    def observe(self, view: SiteView) -> Octaves | None:
        if view.summary is None:
            return None
        fields = view.summary.fields
        return Octaves(counts=fields.magnitudes, nonfinite=fields.nonfinite)
