"""What four bits would do to an operand, at the cost of the read that is made anyway."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qprobe.probes.base import Field, SiteView
from qprobe.probes.batched import Batched, Values
from qprobe.probes.selection import multiplies
from qprobe.records.schema import Role
from qprobe.sites import Site
from qprobe.stats.missing import decibels, ratio


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FourBitError(Batched):
    """Parts of a summary, in its memory."""

    #: Σx², Σ(x̂−x)² of NVFP4, of INT4; float64[3].
    energy: Tensor
    #: Elements, not zero, lost and saturated in NVFP4, lost in INT4; int64[5].
    counts: Tensor

    def merge(self, other: "FourBitError") -> "FourBitError":
        return FourBitError(energy=self.energy + other.energy, counts=self.counts + other.counts)

    def to(self, device: torch.device | str) -> "FourBitError":
        return FourBitError(energy=self.energy.to(device), counts=self.counts.to(device))

    @classmethod
    def values(cls, states: Sequence["FourBitError"]) -> Values:
        """``n`` sampled elements, and of each format SQNR and underflow; saturation of NVFP4."""
        signal, nvfp4, int4 = torch.stack([state.energy for state in states]).unbind(-1)
        counts = torch.stack([state.counts for state in states]).unbind(-1)
        n, there, lost, saturated, lost_int4 = counts
        some = there > 0
        return {
            "n": (n, torch.ones_like(some)),
            "nvfp4.sqnr_db": (decibels(signal, nvfp4), some),
            "nvfp4.underflow": (ratio(lost, there), some),
            "nvfp4.saturation": (ratio(saturated, n), some),
            "int4.sqnr_db": (decibels(signal, int4), some),
            "int4.underflow": (ratio(lost_int4, there), some),
        }

    def arrays(self) -> Mapping[str, Tensor]:
        return {}


class FourBit:
    """SQNR, underflow and saturation of NVFP4 and INT4 along the channels, on one token in eight.

    A quick look that needs no recipe: blocks of 16 (INT4: one scale a token) along the axis that
    holds the channels, rounded to nearest, not rotated. What a recipe does on the axes of all three
    products is asked of :class:`~qprobe.probes.operand_error.OperandError`. Tokens with NaN or
    infinity are left out. NVFP4 scales by the largest magnitude of earlier tensors, so what grows
    past it saturates once. INT4 scales by the token's own largest and cannot saturate. States look
    into the summary they came from.
    """

    name = "four_bit"
    needs: frozenset[Role | Field] = frozenset({Field.NVFP4, Field.INT4})
    every: ClassVar[int] = 10

    def selects(self, site: Site) -> bool:
        return multiplies(site)

    def observe(self, view: SiteView) -> FourBitError | None:
        if view.summary is None:
            return None
        fields = view.summary.fields
        return FourBitError(energy=fields.energy, counts=fields.counts)
