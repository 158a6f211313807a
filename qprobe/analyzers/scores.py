"""Scores that any subject may use; what needs a data set's own classes comes with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from qprobe.errors import InputError

Floats = NDArray[np.float64]


def _second(batch: Any) -> Tensor:
    target: Tensor = batch[1]
    return target


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanLoss:
    """The mean loss over samples with its sign turned, so that greater is better.

    >>> import torch
    >>> squared = MeanLoss(loss=lambda output, batch: (output - batch[1]).square().mean(1))
    >>> sums = squared.of(torch.tensor([[1.0], [3.0]]), (None, torch.zeros(2, 1)))
    >>> squared.reduce(sums.sum(0, keepdims=True)).tolist()
    [-5.0]
    """

    #: Losses ``[samples]`` of an output and its batch; as a subject's.
    loss: Callable[[Tensor, Any], Tensor]
    name: str = "negative_loss"

    def of(self, output: Tensor, batch: Any) -> Floats:
        """Loss and count of each sample, ``[samples, 2]``."""
        losses = self.loss(output, batch).detach().double().cpu().numpy()
        if losses.ndim != 1:
            raise InputError(
                f"a loss is one number a sample, [samples], got shape {losses.shape}; "
                "reduce over everything but the samples."
            )
        return np.stack([losses, np.ones_like(losses)], axis=1)

    def reduce(self, totals: Floats) -> ArrayLike:
        """``−Σ loss / n``."""
        return -totals[:, 0] / totals[:, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The share of samples whose largest logit is their class.

    >>> import torch
    >>> logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    >>> sums = Accuracy().of(logits, (None, torch.tensor([0, 0])))
    >>> Accuracy().reduce(sums.sum(0, keepdims=True)).tolist()
    [0.5]
    """

    #: Class numbers ``[samples, ...]`` of a batch; by default its second item.
    target: Callable[[Any], Tensor] = _second
    name: str = "accuracy"

    def of(self, output: Tensor, batch: Any) -> Floats:
        """Hits and elements of each sample; logits are ``[samples, classes, ...]``."""
        target = self.target(batch).to(output.device)
        found = output.detach().argmax(1)
        if found.shape != target.shape:
            raise InputError(
                f"accuracy takes logits [samples, classes, ...] and classes [samples, ...], got "
                f"{tuple(output.shape)} and {tuple(target.shape)}."
            )
        hits = (found == target).flatten(1) if found.ndim > 1 else (found == target)[:, None]
        counts = np.full(len(hits), hits.shape[1])
        return np.stack([hits.sum(1).cpu().numpy(), counts], axis=1).astype(np.float64)

    def reduce(self, totals: Floats) -> ArrayLike:
        """Hits over elements."""
        return totals[:, 0] / totals[:, 1]
