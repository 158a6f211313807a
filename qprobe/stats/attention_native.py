"""Rows of attention through the C kernel, which reads each of them once."""

import torch
from torch import Tensor

from qprobe import native
from qprobe.native import AttentionRows


def usable(logits: Tensor, quantized: Tensor) -> bool:
    """Whether the kernel is there and reads tensors like these."""
    on_host = logits.device.type == quantized.device.type == "cpu"
    return native.kernels is not None and on_host and logits.numel() > 0


def logit_error(
    logits: Tensor, quantized: Tensor, visible: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Counts ``[2, heads]`` and sums ``[2, 2, heads]``; None if something is not finite."""
    heads = logits.shape[-3]
    counts = torch.zeros(2, heads, dtype=torch.int64)
    sums = torch.zeros(2, 2, heads, dtype=torch.float64)
    rows, _held = _rows(logits, quantized, visible=visible)
    rows.counts, rows.sums = counts.data_ptr(), sums.data_ptr()
    return (counts, sums) if native.require().logit_error(rows) else None


def softmax_change(
    logits: Tensor, quantized: Tensor, mask: tuple[Tensor | None, Tensor | None], bins: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Counts ``[5, heads]``, sums ``[2, 2, heads]`` and histograms ``[2, bins, heads]``.

    ``mask`` is what is visible and what is added. None if something visible is not finite.
    """
    heads = logits.shape[-3]
    counts = torch.zeros(5, heads, dtype=torch.int64)
    sums = torch.zeros(2, 2, heads, dtype=torch.float64)
    levels = torch.empty(2, bins, heads, dtype=torch.int32)
    rows, _held = _rows(logits, quantized, visible=mask[0], bias=mask[1])
    rows.counts, rows.sums, rows.levels = counts.data_ptr(), sums.data_ptr(), levels.data_ptr()
    return (counts, sums, levels) if native.require().softmax_change(rows) else None


def _rows(
    logits: Tensor, quantized: Tensor, *, visible: Tensor | None, bias: Tensor | None = None
) -> tuple[AttentionRows, list[Tensor]]:
    """What the kernel is told, and the memory that it points into."""
    shape, numbers = (-1, *logits.shape[-3:]), [logits, quantized]
    numbers += [] if bias is None else [bias.expand_as(logits)]
    wide = torch.float64 in (one.dtype for one in numbers)
    dtype = torch.float64 if wide else torch.float32
    held = [one.detach().to(dtype).reshape(shape).contiguous() for one in numbers]
    samples, heads, queries, keys = held[0].shape
    scratch = torch.empty(native.require().attention_scratch(keys), dtype=torch.float64)
    rows = AttentionRows(
        wide=wide,
        before=held[0].data_ptr(),
        after=held[1].data_ptr(),
        bias=None if bias is None else held[2].data_ptr(),
        scratch=scratch.data_ptr(),
        samples=samples,
        heads=heads,
        queries=queries,
        keys=keys,
    )
    held.append(scratch)
    if visible is not None:
        held.append(visible.expand_as(logits).reshape(shape).contiguous())
        rows.visible = held[-1].data_ptr()
    return rows, held
