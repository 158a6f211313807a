"""Histograms of the logits an image was given, apart for background and foreground pixels.

1,024 bins of 1/32 from −16 to 16; what lies beyond is in the outermost bins. At 16 a probability in
float32 is two roundings away from 1, so the range drops nothing that probabilities would tell.
"""

import ctypes

import torch
from torch import Tensor

from qprobe import native
from qprobe.engine.metrics.overlap import check_shapes

BINS = 1024
LIMIT = 16.0
BINS_A_LOGIT = BINS / (2 * LIMIT)


def logit_bins(logits: Tensor) -> Tensor:
    """The bin of each logit."""
    return ((logits.float() + LIMIT) * BINS_A_LOGIT).clamp(0, BINS - 1).long()


def logit_histograms(logits: Tensor, target: Tensor) -> Tensor:
    """Counts ``[B, 2, BINS]`` of background (0) and foreground (1) pixels by logit.

    Their sum over axis 1 is the histogram of predictions; sums over images are what
    :func:`~qprobe.inference.precision_recall.average_precision_of_histograms` reads.

    >>> counts = logit_histograms(torch.tensor([[0.0, 99.0]]), torch.tensor([[0, 1]]))
    >>> counts.nonzero().tolist()
    [[0, 0, 512], [0, 1, 1023]]
    """
    check_shapes(logits, target)
    batch = len(logits)
    if _kernel_takes(logits) and _kernel_takes(target):
        return _counted_by_kernel(logits.contiguous(), target.contiguous())
    at = logit_bins(logits.flatten(1))
    side = (target > 0.5).flatten(1).long()
    image = torch.arange(batch, device=logits.device)[:, None]
    flat = ((2 * image + side) * BINS + at).flatten()
    return torch.bincount(flat, minlength=2 * BINS * batch).view(batch, 2, BINS)


def _kernel_takes(x: Tensor) -> bool:
    """Whether the kernel is there and may be given the address of ``x``."""
    return (
        native.kernels is not None
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


def _counted_by_kernel(logits: Tensor, target: Tensor) -> Tensor:
    """The same counts in one pass."""
    counts = torch.zeros(len(logits), 2, BINS, dtype=torch.int64)
    given = native.Logits(
        logits=logits.data_ptr(),
        target=target.data_ptr(),
        images=len(logits),
        pixels=logits.numel() // len(logits),
        bins=BINS,
        limit=LIMIT,
        each=BINS_A_LOGIT,
        counts=counts.data_ptr(),
    )
    native.require().bin_logits(ctypes.byref(given))
    return counts
