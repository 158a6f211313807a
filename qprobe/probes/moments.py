"""Moments of a tensor, of its channels and of its tokens, and where its outliers are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qprobe.probes.base import Field, SiteView
from qprobe.probes.selection import WATCHED, watched
from qprobe.probes.summary_fields import KURTOSIS, TokenHistograms
from qprobe.probes.summary_scalars import of_tensor, of_tokens, over_channels
from qprobe.records.schema import Role
from qprobe.sites import Site
from qprobe.stats.moments import Moments as ChannelMoments
from qprobe.stats.outliers import outlier_pattern

#: Kurtosis of fewer numbers is bounded by their count more than by the tensor.
_ENOUGH = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MomentsOfTensor:
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

    def scalars(self) -> Mapping[str, Tensor]:
        """Moments under their names, those of parts as ``channel_kurtosis_p90`` and alike."""
        channels = ChannelMoments.unpack(self.channels)
        nan, infinite = self.nonfinite.double()
        found = {"n": channels.n.sum(), "nan": nan, "infinite": infinite, **of_tensor(channels)}
        seen = channels.n > 0
        found |= over_channels("channel_kurtosis", channels.kurtosis())
        found |= over_channels("channel_std", channels.std())
        found |= over_channels("channel_absmax", channels.absmax[seen])
        found |= of_tokens(TokenHistograms.of(self.tokens))
        pattern = self._pattern(channels)
        return found if pattern is None else {**found, "outlier_pattern": pattern}

    def _pattern(self, channels: ChannelMoments) -> Tensor | None:
        """The outlier pattern, where there are channels and tokens enough to speak of one."""
        counts = TokenHistograms.of(self.tokens).kurtosis
        if min(len(channels.n), int(counts[: KURTOSIS.bins].sum())) < _ENOUGH:
            return None
        median = KURTOSIS.quantile(counts, 0.5)
        found = outlier_pattern(channels.kurtosis(), torch.tensor([median], dtype=torch.float64))
        return None if bool(found.isnan()) else found

    def arrays(self) -> Mapping[str, Tensor]:
        """Moments of each channel, and histograms over tokens in quarter octaves."""
        squares, largest, kurtosis, _ = TokenHistograms.of(self.tokens)
        return {
            "channel_moments": self.channels,
            "token_mean_square": squares,
            "token_absmax": largest,
            "token_kurtosis": kurtosis,
        }


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
