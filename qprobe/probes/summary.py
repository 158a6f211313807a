"""The statistics of one tensor that are taken in one read, and merge.

A tensor is a set of *tokens* (rows of ``[N, C]``, voxels of an image) with the same *channels*. On
all of it: the first four moments and the largest magnitude of every channel, and, token by token,
mean square, largest magnitude and kurtosis over channels, as histograms. On one token in eight: how
often each octave of magnitude occurs, and what NVFP4 and INT4 along the channels would lose, INT4
with one scale for each token.

NaN and infinite elements are counted and kept out of everything else: a channel's moments are those
of its finite elements; a token that has one is in no token histogram and no quantization error.

A C kernel (:mod:`qprobe.native`) or PyTorch does the work, with the same counts; sums of powers
agree to about 1e-5 of their value, and where a token's mean square or kurtosis lies on the edge of
a bin to within that, it may be counted in the bin beside.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from qprobe import native
from qprobe.errors import InputError
from qprobe.native import Sampled
from qprobe.probes import summary_eager, summary_native
from qprobe.probes.summary_fields import Fields, Sample, words
from qprobe.probes.summary_native import Bound
from qprobe.probes.summary_scalars import (
    kurtosis_of_channels,
    of_tensor,
    of_tokens,
    over_channels,
)
from qprobe.quant.fold import fold
from qprobe.stats.histogram import MagnitudeHistogram
from qprobe.stats.moments import Moments

ALL: Final = Sampled.HISTOGRAM | Sampled.NVFP4 | Sampled.INT4
#: Fewer tokens than this are all sampled.
_FEW: Final = 64
_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSample:
    """Which tokens of a tensor the histogram and the quantization errors are taken of.

    Every ``stride``-th, ``stride`` being the smallest number from ``every`` on that has no factor
    in common with the tokens of one example: a regular grid would see the same places of every
    image and miss a token that stands out at another. Of fewer than 64 tokens all are taken.
    """

    every: int = 8
    #: Any number; chooses the first token. Draw a new one for each observation.
    draw: int = 0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"one token in {self.every} cannot be sampled; give 1 or more.")

    def of(self, tokens: int, period: int) -> Sample:
        """The sample of ``tokens`` tokens, of which ``period`` belong to one example.

        >>> TokenSample(draw=3).of(16 * 196, 196)
        Sample(stride=9, offset=3)
        """
        stride = 1 if tokens < _FEW else self.every
        while math.gcd(stride, period) > 1:
            stride += 1
        return Sample(stride, self.draw % stride)


def _dense(x: Tensor, axis: int) -> Tensor:
    """``[outer, channels, inner]`` float32 or bfloat16, in the order of memory where dense."""
    if x.dtype == torch.float16:
        x = x.float()
    if axis in (-1, x.dim() - 1) and x.is_contiguous():
        return x.view(-1, x.shape[-1], 1)
    return fold(x, axis).x


def _rebuilt(channels: int, buffer: Tensor) -> "Summary":
    return Summary(channels, buffer=buffer)


class Summary:
    """A mergeable state: what is known of one tensor from all observations of it.

    >>> x = torch.tensor([[1.0, -2.0], [3.0, -6.0]])
    >>> s = Summary(channels=2)
    >>> s.observe(x)
    >>> s.moments().mean.tolist(), s.scalars()["absmax"].item()
    ([2.0, -4.0], 6.0)
    """

    def __init__(
        self,
        channels: int,
        device: torch.device | str = "cpu",
        *,
        buffer: Tensor | None = None,
    ) -> None:
        if channels < 1:
            raise InputError(f"a summary needs at least one channel, got {channels}.")
        size = words(channels)
        if buffer is None:
            buffer = torch.zeros(size, dtype=torch.float64, device=device)
        if buffer.dtype != torch.float64 or buffer.shape != (size,):
            raise InputError(
                f"the buffer of a summary of {channels} channels has {size} float64, "
                f"got {list(buffer.shape)} {buffer.dtype}."
            )
        self.channels = channels
        #: All of the state, in one piece for one copy or one collective; counts are int64 bits.
        #: A buffer that is given is used, not copied.
        self.buffer = buffer
        self.fields = Fields.of(buffer, channels)
        self._bound: Bound | None = None
        #: What the last tensor was like, if the kernel read it where it lay.
        self._last: object = None

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (self.channels, self.buffer)

    def observe(
        self,
        x: Tensor,
        axis: int = -1,
        *,
        sample: TokenSample | None = None,
        measure: Sampled = ALL,
    ) -> None:
        """Add one tensor, whose ``axis`` holds the channels.

        float32 or bfloat16 (float16 is widened first), in any memory layout; one that is dense,
        such as channels-last, is not copied. NVFP4 scales by the largest magnitude of earlier
        observations; the first tensor is read once more to find its own.
        """
        sample = sample or TokenSample()
        if self.again(x, axis, draw=sample.draw, how=(sample.every, measure)):
            return
        self._check(x, axis)
        if not x.numel():
            return
        dense = _dense(x.detach(), axis)
        tokens = dense.shape[0] * dense.shape[2]
        examples = x.shape[0] if x.dim() > 2 and axis % x.dim() else 1
        chosen = sample.of(tokens, tokens // examples)
        if not summary_native.usable(dense):
            summary_eager.read(self.fields, dense, measure, chosen)
            return
        self._bound = self._bound or Bound(self.fields)
        self._bound.read(dense, measure, chosen)
        if dense.data_ptr() == x.data_ptr():
            self._last = (x.shape, x.stride(), x.dtype, x.device, axis, sample.every, measure)

    def again(self, x: Tensor, axis: int, *, draw: int, how: tuple[int, Sampled]) -> bool:
        """The same for a tensor that is like the last one, at a fraction of the overhead.

        ``how`` is the sample's stride and what is measured of it. False, and nothing is done, if
        the tensor is of another kind.
        """
        bound = self._bound
        if bound is None or native.kernels is None:
            return False
        if (x.shape, x.stride(), x.dtype, x.device, axis, *how) != self._last:
            return False
        bound.again(x, draw)
        return True

    def _check(self, x: Tensor, axis: int) -> None:
        if x.dtype not in _DTYPES:
            raise InputError(
                f"a summary reads float32, bfloat16 or float16, got {x.dtype}; convert it first."
            )
        if not x.dim() or not -x.dim() <= axis < x.dim():
            raise InputError(f"axis {axis} is not one of a tensor of shape {list(x.shape)}.")
        if x.shape[axis] != self.channels:
            raise InputError(
                f"this summary has {self.channels} channels, axis {axis} of the tensor of shape "
                f"{list(x.shape)} has {x.shape[axis]}; make one summary for each tensor watched."
            )
        if x.device != self.buffer.device:
            raise InputError(
                f"the tensor is on {x.device}, its summary on {self.buffer.device}; make the "
                "summary where the tensor is."
            )

    def merge(self, other: "Summary") -> "Summary":
        """The summary of what both have seen; neither is changed."""
        if other.channels != self.channels:
            raise InputError(
                f"summaries of {self.channels} and {other.channels} channels are of different "
                "tensors and cannot be merged."
            )
        merged = Summary(self.channels, buffer=self.buffer.clone())
        mine, theirs = merged.fields, other.fields
        mine.channels.copy_(self.moments().merge(other.moments()).pack())
        mine.energy.add_(theirs.energy)
        torch.maximum(mine.reference, theirs.reference, out=mine.reference)
        for name in ("tokens", "nonfinite", "magnitudes", "counts"):
            getattr(mine, name).add_(getattr(theirs, name))
        return merged

    def fresh(self) -> "Summary":
        """An empty summary that keeps the magnitude by which NVFP4 scales."""
        made = Summary(self.channels, self.buffer.device)
        made.fields.reference.copy_(self.fields.reference)
        if self._bound is not None:
            made._last = self._last
            made._bound = self._bound.moved(made.buffer.data_ptr() - self.buffer.data_ptr())
        return made

    def moments(self) -> Moments:
        """The moments of every channel; ``.total()`` are the tensor's."""
        return Moments.unpack(self.fields.channels)

    def magnitudes(self) -> MagnitudeHistogram:
        """Magnitudes of the sampled tokens."""
        return MagnitudeHistogram(counts=self.fields.magnitudes)

    def scalars(self) -> Mapping[str, Tensor]:
        """What is known, as float64 without axes; what has no value is not in it."""
        channels = self.fields.channels[None]
        stacked = (
            of_tensor(channels)
            | over_channels("channel_kurtosis", *kurtosis_of_channels(channels))
            | of_tokens(self.fields.tokens[None])
        )
        found = {key: value[0] for key, (value, exists) in stacked.items() if bool(exists[0])}
        found["nan"], found["infinite"] = self.fields.nonfinite.double()
        return found | self._of_sample()

    def _of_sample(self) -> dict[str, Tensor]:
        signal, nvfp4, int4 = self.fields.energy
        elements, there, lost, saturated, lost_int4 = self.fields.counts.double()
        found = {"sampled": elements}
        counted = self.fields.magnitudes.sum()
        if counted > 0:
            found["zero_fraction"] = self.magnitudes().zero / counted
        if there > 0:
            found |= {
                "nvfp4_sqnr_db": 10.0 * torch.log10(signal / nvfp4),
                "nvfp4_underflow": lost / there,
                "nvfp4_saturation": saturated / elements,
                "int4_sqnr_db": 10.0 * torch.log10(signal / int4),
                "int4_underflow": lost_int4 / there,
            }
        return found

    def arrays(self) -> Mapping[str, Tensor]:
        """Channels and histograms; the edges of the histograms never move."""
        squares, largest, kurtosis, _ = self.fields.token_histograms()
        return {
            "channel_moments": self.fields.channels,
            "magnitudes": self.fields.magnitudes,
            "token_mean_square": squares,
            "token_absmax": largest,
            "token_kurtosis": kurtosis,
        }
