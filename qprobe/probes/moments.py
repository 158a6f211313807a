"""Moments of a tensor, of its channels and of its tokens, and where its outliers are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qprobe.probes.base import Field, SiteView
from qprobe.probes.batched import Batched, Values
from qprobe.probes.selection import WATCHED, watched
from qprobe.probes.summary_fields import KURTOSIS, TokenHistograms
from qprobe.probes.summary_scalars import (
    kurtosis_of_channels,
    of_tensor,
    of_tokens,
    over_channels,
)
from qprobe.records.schema import Role
from qprobe.sites import Site
from qprobe.stats.moments import Moments as ChannelMoments
from qprobe.stats.outliers import of_medians

#: Kurtosis of fewer numbers is bounded by their count more than by the tensor.
_ENOUGH = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MomentsOfTensor(Batched):
    """Parts of a summary, in its memory."""

    #: ``[6, channels]``: n, mean, M2, M3, M4, absmax; float64.
    channels: Tensor
    #: :class:`~qprobe.probes.summary_fields.TokenHistograms` in one piece, int64.
    tokens: Tensor
    #: NaN and infinite elements, int64[2].
    nonfinite: Tensor

    def merge(self, other: "MomentsOfTensor") -> "MomentsOfTensor":
        one, two = (ChannelMoments.unpack(state.channels) for state in (self, other))
        return MomentsOfTensor(
            channels=one.merge(two).pack(),
            tokens=self.tokens + other.tokens,
            nonfinite=self.nonfinite + other.nonfinite,
        )

    def to(self, device: torch.device | str) -> "MomentsOfTensor":
        return MomentsOfTensor(
            channels=self.channels.to(device),
            tokens=self.tokens.to(device),
            nonfinite=self.nonfinite.to(device),
        )

    @property
    def batch(self) -> int:
        """States with as many channels can be stacked."""
        return self.channels.shape[-1]

    @classmethod
    def values(cls, states: Sequence["MomentsOfTensor"]) -> Values:
        """Moments under their names, those of parts as ``channel_kurtosis_p90`` and alike."""
        channels = torch.stack([state.channels for state in states])
        tokens = torch.stack([state.tokens for state in states])
        nan, infinite = torch.stack([state.nonfinite for state in states]).double().unbind(-1)
        every = torch.ones(len(states), dtype=torch.bool)
        n, _, m2, _, _, absmax = channels.unbind(1)
        kurtosis, there = kurtosis_of_channels(channels)
        std = (m2 / n.clamp(min=1)).sqrt()
        return {
            **of_tensor(channels),
            "nan": (nan, every),
            "infinite": (infinite, every),
            **over_channels("channel_kurtosis", kurtosis, there),
            **over_channels("channel_std", std, n > 0),
            **over_channels("channel_absmax", absmax, n > 0),
            **of_tokens(tokens),
            "outlier_pattern": _pattern(kurtosis, there, TokenHistograms.of(tokens).kurtosis),
        }

    def arrays(self) -> Mapping[str, Tensor]:
        """Moments of each channel, and histograms over tokens in quarter octaves."""
        squares, largest, kurtosis, _ = TokenHistograms.of(self.tokens)
        return {
            "channel_moments": self.channels,
            "token_mean_square": squares,
            "token_absmax": largest,
            "token_kurtosis": kurtosis,
        }


def _pattern(kurtosis: Tensor, there: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The outlier patterns, where there are channels and tokens enough to speak of one."""
    above, some = over_channels("ln", kurtosis.log(), there)["ln_median"]
    found = of_medians(above, KURTOSIS.quantiles(tokens, (0.5,))[..., 0].log())
    enough = (tokens[..., : KURTOSIS.bins].sum(-1) >= _ENOUGH) & (kurtosis.shape[-1] >= _ENOUGH)
    return found, some & enough & ~found.isnan()


class Moments:
    """Mean, std, skewness, kurtosis and absmax of a tensor, its channels and its tokens.

    Of channels and tokens the median, p90, p99 and max; those of tokens come from histograms and
    are within 12 %. ``outlier_pattern`` says whether outliers sit in channels (below 1) or at
    places (above 1): :func:`~qprobe.stats.outliers.outlier_pattern`.

    States look into the summary they came from and take no memory of their own, so the summary is
    not written to again.
    """

    name = "moments"
    needs: frozenset[Role | Field] = frozenset({Field.MOMENTS, Field.TOKENS})
    every: ClassVar[int] = 10

    def __init__(self, roles: Iterable[Role | str] = WATCHED) -> None:
        self._roles = watched(roles)

    def selects(self, site: Site) -> bool:
        return site.role in self._roles

    def observe(self, view: SiteView) -> MomentsOfTensor | None:
        if view.summary is None:
            return None
        fields = view.summary.fields
        return MomentsOfTensor(
            channels=fields.channels, tokens=fields.tokens, nonfinite=fields.nonfinite
        )
