"""The training loss: binary cross-entropy plus a Tversky loss that weighs missed pixels more."""

import torch
import torch.nn.functional as F
from torch import Tensor

from qprobe.errors import InputError

#: Weight of a false positive and of a false negative in the Tversky index.
ALPHA = 0.3
BETA = 0.7
CLAMP = 50.0
EPS = 1e-6


def bce_tversky(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of :func:`bce_tversky_per_image`, a 0-d tensor.

    Two pixels at p = 1/2, one of them foreground: ln 2 + 1 − 0.5/(0.5 + 0.3·0.5 + 0.7·0.5).

    >>> round(bce_tversky(torch.zeros(1, 1, 2), torch.tensor([[[0.0, 1.0]]])).item(), 4)
    1.1931
    """
    return bce_tversky_per_image(logits, target).mean()


def bce_tversky_per_image(logits: Tensor, target: Tensor) -> Tensor:
    """``BCE + 1 − (TP + ε)/(TP + α·FP + β·FN + ε)`` of each image: ``[B]``.

    ``logits`` and ``target`` (0 to 1) are ``[B, classes, ...]``. With p = sigmoid(logit) the sums
    TP = Σ p·y, FP = Σ p·(1−y), FN = Σ (1−p)·y go over the pixels of one image and class; an image's
    value is the mean over its classes, and BCE is a mean over pixels and classes. α = 0.3,
    β = 0.7, ε = 1e-6; logits are clamped to ±50, beyond which there is no gradient and an infinite
    logit counts as 50 (NaN stays NaN). Half precision is computed in float32.
    """
    if logits.shape != target.shape or logits.ndim < 3:
        raise InputError(
            f"the loss takes logits and a target of one shape [batch, classes, ...], got "
            f"{tuple(logits.shape)} and {tuple(target.shape)}; "
            "give the target one channel per class."
        )
    dtype = torch.promote_types(logits.dtype, torch.float32)
    z, y = logits.to(dtype).clamp(-CLAMP, CLAMP).flatten(2), target.to(dtype).flatten(2)
    bce = F.binary_cross_entropy_with_logits(z, y, reduction="none").mean((1, 2))
    # 1 − p as a sigmoid of its own: the difference would lose all digits of a confident p.
    p, q = z.sigmoid(), (-z).sigmoid()
    hit, false_alarm, missed = (p * y).sum(2), (p * (1 - y)).sum(2), (q * y).sum(2)
    index = (hit + EPS) / (hit + ALPHA * false_alarm + BETA * missed + EPS)
    return bce + (1 - index).mean(1)
