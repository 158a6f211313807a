"""Filling a summary with the C kernel."""

import threading

import torch
from torch import Tensor

from qprobe import native
from qprobe.native import Observation, Sampled
from qprobe.probes.summary_fields import Fields, Sample

_TYPES = {
    torch.float32: native.Element.FLOAT32,
    torch.bfloat16: native.Element.BFLOAT16,
}
#: One working memory a thread: backward runs in threads of its own.
_memory = threading.local()


def usable(x: Tensor) -> bool:
    """Whether the kernel is there and reads tensors like this one."""
    return native.kernels is not None and x.device.type == "cpu" and x.dtype in _TYPES


def bind(fields: Fields) -> Observation:
    """What the kernel is told of a summary, but for the tensor."""
    return Observation(
        reference=fields.reference.data_ptr(),
        channels=fields.channels.data_ptr(),
        tokens=fields.tokens.data_ptr(),
        nonfinite=fields.nonfinite.data_ptr(),
        magnitudes=fields.magnitudes.data_ptr(),
        counts=fields.counts.data_ptr(),
        energy=fields.energy.data_ptr(),
    )


def read(to: Observation, x: Tensor, sampled: Sampled, sample: Sample) -> None:
    """Add dense ``[outer, channels, inner]`` float32 or bfloat16, reading it once."""
    kernels = native.require()
    to.x, to.type = x.data_ptr(), _TYPES[x.dtype]
    to.outer, to.length, to.inner = x.shape
    to.fields, (to.stride, to.offset) = sampled, sample
    to.scratch = _scratch(kernels.summary_scratch(to.length, to.inner))
    kernels.summarise(to)


def _scratch(floats: int) -> int:
    """Address of working memory for so many floats, kept for the next call of this thread."""
    held: Tensor | None = getattr(_memory, "held", None)
    if held is None or held.numel() < floats:
        held = _memory.held = torch.empty(floats)
    return held.data_ptr()
