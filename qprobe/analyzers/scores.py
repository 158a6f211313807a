"""Scores that any subject may use; what needs a data set's own classes comes with it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from qprobe.errors import InputError

Floats = NDArray[np.float64]
#: A kernel's width, in standard deviations times n^(-1/5).
_SILVERMAN = 1.06


def _second(batch: Any) -> Tensor:
    if isinstance(batch, Mapping):
        raise InputError(
            "accuracy takes classes from the second item of a batch, and this one is a mapping; "
            "say where they are: Accuracy(target=lambda batch: batch['labels'])."
        )
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

    Its slope is that of a smooth accuracy. With the margin m of an element, the logit of its class
    less the largest other one, accuracy is the mean of [m > 0]: a step, whose derivative says
    nothing at any sample. Over samples whose margins have the density p a small change δ of each
    gains p(0)·E[δ | m = 0], and a kernel estimates that from those near 0::

        gains = Σ σ(m/h) / n        d gains/dm = K_h(m) / n,   K_h = σ'(m/h)/h
        h = 1.06 · std(m) · n^(−1/5)

    h is Silverman's rule of thumb for kernels; the logistic one is 1.8 times as wide as the normal
    one that it is for, since what a layer changes is not infinitesimal. ``bias``: for margins far
    from normal h is too wide, and elements count that no small change would turn.

    Reference: Silverman 1986, "Density estimation", eq. 3.28.

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
        """Hits, elements, Σ m and Σ m² of each sample; logits are ``[samples, classes, ...]``."""
        logits = output.detach()
        target = self._target(logits, batch)
        # A margin that is not finite says nothing of how wide margins are spread.
        margins = _margins(logits, target).double().nan_to_num(0.0, 0.0, 0.0)
        sums = [logits.argmax(1) == target, torch.ones_like(target), margins, margins.square()]
        rows = [one.reshape(len(target), -1).double().sum(1) for one in sums]
        return torch.stack(rows, 1).cpu().numpy()

    def reduce(self, totals: Floats) -> ArrayLike:
        """Hits over elements."""
        return totals[:, 0] / totals[:, 1]

    def gains(self, output: Tensor, batch: Any, totals: Floats) -> Tensor:
        """``Σ σ(m/h)/n`` of each sample, h from the margins of all."""
        n, first, second = (float(one) for one in totals[1:4])
        spread = max(second / n - (first / n) ** 2, 0.0) ** 0.5
        width = _SILVERMAN * spread * n**-0.2 or 1.0
        margins = _margins(output, self._target(output, batch))
        smooth: Tensor = (margins / width).sigmoid().reshape(len(output), -1).sum(1)
        return smooth / n

    def _target(self, output: Tensor, batch: Any) -> Tensor:
        target = self.target(batch).to(output.device)
        if target.shape != output.shape[:1] + output.shape[2:]:
            raise InputError(
                f"accuracy takes logits [samples, classes, ...] and classes [samples, ...], got "
                f"{tuple(output.shape)} and {tuple(target.shape)}."
            )
        return target


def _margins(logits: Tensor, target: Tensor) -> Tensor:
    """The logit of the class less the largest other one; 0 where there is no such class.

    >>> logits = torch.tensor([[2.0, 1.0, 0.5], [0.0, 3.0, 1.0]])
    >>> _margins(logits, torch.tensor([0, 2])).tolist(), _margins(logits[:1], torch.tensor([-100]))
    ([1.0, -2.0], tensor([0.]))
    """
    classes = logits.shape[1]
    there = (target >= 0) & (target < classes)
    at = target.clamp(0, classes - 1).long()[:, None]
    wide = logits.float()
    others = wide.scatter(1, at, -torch.inf).amax(1)
    return torch.where(there, wide.gather(1, at)[:, 0] - others, 0.0)
