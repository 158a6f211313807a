"""The sums of average precision over bins, by one C kernel."""

import ctypes

import numpy as np
from numpy.typing import NDArray

from qprobe import native

Floats = NDArray[np.float64]


def sums(negatives: Floats, positives: Floats) -> Floats:
    """What the positives of each row of bins add, and their number: ``[2, rows]``.

    Of float64 counts ``[rows, bins]``, as
    :func:`~qprobe.inference.precision_recall.average_precision_of_histograms` defines it. Rows that
    lie side by side in memory are read as they are, others element by element.
    """
    if negatives.strides != positives.strides or any(step % 8 for step in positives.strides):
        negatives, positives = np.ascontiguousarray(negatives), np.ascontiguousarray(positives)
    rows, bins = positives.shape
    row, bin_ = (step // positives.itemsize for step in positives.strides)
    found = np.empty((2, rows))
    binned = native.Binned(
        negatives=negatives.ctypes.data,
        positives=positives.ctypes.data,
        rows=rows,
        bins=bins,
        row=row,
        bin=bin_,
        total=found[0].ctypes.data,
        hits=found[1].ctypes.data,
    )
    native.require().average_precision(ctypes.byref(binned))
    return found
