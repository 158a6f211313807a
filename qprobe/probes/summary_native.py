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


def read(fields: Fields, x: Tensor, sampled: Sampled, sample: Sample) -> None:
    """Add dense ``[outer, channels, inner]`` float32 or bfloat16 to ``fields``, reading it once."""
    kernels = native.require()
    outer, length, inner = x.shape
    kernels.summarise(
        Observation(
            x=x.data_ptr(),
            type=_TYPES[x.dtype],
            outer=outer,
            length=length,
            inner=inner,
            fields=sampled,
            stride=sample.stride,
            offset=sample.offset,
            absmax=fields.reference.item(),
            channels=fields.channels.data_ptr(),
            tokens=fields.tokens.data_ptr(),
            nonfinite=fields.nonfinite.data_ptr(),
            magnitudes=fields.magnitudes.data_ptr(),
            counts=fields.counts.data_ptr(),
            energy=fields.energy.data_ptr(),
            scratch=_scratch(kernels.summary_scratch(length, inner)),
        )
    )


def _scratch(floats: int) -> int:
    """Address of working memory for so many floats, kept for the next call of this thread."""
    held: Tensor | None = getattr(_memory, "held", None)
    if held is None or held.numel() < floats:
        held = _memory.held = torch.empty(floats)
    return held.data_ptr()
