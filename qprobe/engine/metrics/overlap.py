"""Dice, IoU, recall and F2 from the counts TP, FP and FN.

Counts are ``[..., 3]`` in that order: one row per image, or a sum over images for the pooled score.
Where nothing is there and nothing was found (TP = FP = FN = 0), Dice, IoU and F2 are 1: an empty
image left empty is right. Recall of an image without foreground is undefined and masked.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from qprobe.errors import InputError
from qprobe.inference.precision_recall import Masked


def overlap_counts(logits: Tensor, target: Tensor, threshold: float = 0.5) -> Tensor:
    """TP, FP and FN of each image, ``[B, 3]``: positive is a probability above ``threshold``.

    >>> overlap_counts(torch.tensor([[2.0, 1.0, -1.0, -2.0]]), torch.tensor([[1, 0, 1, 0]]))
    tensor([[1, 1, 1]])
    """
    check_shapes(logits, target)
    if not 0.0 < threshold < 1.0:
        raise InputError(f"threshold is a probability between 0 and 1, got {threshold}.")
    cut = float(np.log(threshold / (1.0 - threshold)))
    found, there = (logits > cut).flatten(1), (target > 0.5).flatten(1)
    pairs = (found & there, found & ~there, ~found & there)
    return torch.stack([pair.sum(1) for pair in pairs], dim=1)


def dice(counts: ArrayLike) -> Masked:
    """``2·TP / (2·TP + FP + FN)``.

    >>> dice([[1, 1, 1], [0, 0, 0], [0, 5, 0]]).tolist()
    [0.5, 1.0, 0.0]
    """
    return _f_measure(counts, 1.0)


def f2(counts: ArrayLike) -> Masked:
    """``5·TP / (5·TP + 4·FN + FP)``: recall counts twice as much as precision.

    >>> f2([[2, 4, 1]]).round(4).tolist()
    [0.5556]
    """
    return _f_measure(counts, 2.0)


def iou(counts: ArrayLike) -> Masked:
    """``TP / (TP + FP + FN)``.

    >>> iou([[1, 1, 2]]).tolist()
    [0.25]
    """
    tp, fp, fn = _split(counts)
    return _ratio(tp, tp + fp + fn, empty=1.0)


def recall(counts: ArrayLike) -> Masked:
    """``TP / (TP + FN)``, masked where there is no foreground.

    >>> recall([[3, 9, 1], [0, 2, 0]]).tolist()
    [0.75, None]
    """
    tp, _, fn = _split(counts)
    return _ratio(tp, tp + fn, empty=None)


def check_shapes(logits: Tensor, target: Tensor) -> None:
    """Logits and target have one shape, and no logit is NaN."""
    if logits.shape != target.shape or logits.ndim < 2:
        raise InputError(
            f"metrics take logits and a target of one shape [batch, ...], got "
            f"{tuple(logits.shape)} and {tuple(target.shape)}."
        )
    bad = int(logits.isnan().sum())
    if bad:
        raise InputError(
            f"{bad} of {logits.numel()} logits are NaN, which has no rank and no class; "
            "look for the first step with a non-finite loss."
        )


def _f_measure(counts: ArrayLike, beta: float) -> Masked:
    tp, fp, fn = _split(counts)
    weight = beta * beta
    return _ratio((1 + weight) * tp, (1 + weight) * tp + weight * fn + fp, empty=1.0)


def _split(counts: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = np.asarray(counts, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] != 3:
        raise InputError(f"counts are [..., 3] (TP, FP, FN), got shape {values.shape}.")
    return values[..., 0], values[..., 1], values[..., 2]


def _ratio(part: np.ndarray, whole: np.ndarray, *, empty: float | None) -> Masked:
    none = whole == 0
    values = np.where(none, 0.0 if empty is None else empty, part / np.where(none, 1.0, whole))
    result: Masked = np.ma.masked_array(values, mask=none & (empty is None))
    return result
