"""Filling a summary with the C kernel."""

import threading
from typing import Final, Self

import torch
from torch import Tensor

from qprobe import native
from qprobe.native import Observation, Sampled
from qprobe.probes.summary_fields import Fields, Sample

_TYPES: Final = {
    torch.float32: native.Element.FLOAT32,
    torch.bfloat16: native.Element.BFLOAT16,
}
#: Where the kernel adds its results; all of it lies in the summary's one buffer.
_MEMORY: Final = (
    *("reference", "channels", "tokens", "nonfinite", "magnitudes", "counts", "energy"),
)
#: One working memory a thread: backward runs in threads of its own.
_memory = threading.local()


def usable(x: Tensor) -> bool:
    """Whether the kernel is there and reads tensors like this one."""
    return native.kernels is not None and x.device.type == "cpu" and x.dtype in _TYPES


class Bound:
    """The kernel with what it is told of one summary, but for the tensor."""

    __slots__ = ("_floats", "_to")

    def __init__(self, fields: Fields) -> None:
        self._to = Observation(**{name: getattr(fields, name).data_ptr() for name in _MEMORY})
        self._floats = 0

    def moved(self, distance: int) -> Self:
        """The same for a summary whose memory lies so many bytes further on."""
        made = object.__new__(type(self))
        made._floats = self._floats
        made._to = to = Observation.from_buffer_copy(self._to)
        for name in _MEMORY:
            setattr(to, name, getattr(to, name) + distance)
        return made

    def read(self, x: Tensor, sampled: Sampled, sample: Sample) -> None:
        """Add dense ``[outer, channels, inner]`` float32 or bfloat16, reading it once."""
        to = self._to
        to.type = _TYPES[x.dtype]
        to.outer, to.length, to.inner = x.shape
        to.fields, to.stride = sampled, sample.stride
        self._floats = native.require().summary_scratch(to.length, to.inner)
        self.again(x, sample.offset)

    def again(self, x: Tensor, draw: int) -> None:
        """Add another tensor that is like the last one in all but its values."""
        to = self._to
        to.x, to.offset = x.data_ptr(), draw % to.stride
        to.scratch = _scratch(self._floats)
        native.require().summarise(to)


def _scratch(floats: int) -> int:
    """Address of working memory for so many floats, kept for the next call of this thread."""
    held: tuple[int, int, Tensor] | None = getattr(_memory, "held", None)
    if held is None or held[0] < floats:
        room = torch.empty(floats)
        held = _memory.held = (floats, room.data_ptr(), room)
    return held[1]
