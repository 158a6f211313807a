"""Products with the Hessian of a replica's mean loss, its parameters laid end to end."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TypeAlias

import torch
from torch import Tensor

from qprobe.analyzers.curvature.replica import Replica
from qprobe.stats import Operator

#: The gradient of one batch by parameter; None where the loss does not use one.
Gradients: TypeAlias = tuple[Tensor | None, ...]


def hessian(replica: Replica, *, keep: bool = False) -> Operator:
    """H of the mean loss over all samples.

    A product is two passes back over every batch. With ``keep`` the first of them is made once and
    its graph kept, which is faster and holds the activations of all batches instead of one.
    Parameters that the loss does not use, or uses linearly, have rows of zeros.
    """
    values = replica.values
    kept: list[Gradients] = []

    def gradients() -> Iterable[Gradients]:
        if kept:
            return kept
        found = (_gradients(replica, at, graph=True) for at in range(len(replica.batches)))
        if not keep:
            return found
        kept.extend(found)
        return kept

    return Operator(
        matvec=lambda vector: _product(gradients(), values, vector, keep=keep),
        size=sum(value.numel() for value in values),
        dtype=_wide(values),
        device=values[0].device,
    )


def gradient(replica: Replica) -> Tensor:
    """g of the mean loss, ``[size]``."""
    total = torch.zeros(sum(value.numel() for value in replica.values), dtype=_wide(replica.values))
    total = total.to(replica.values[0].device)
    for index in range(len(replica.batches)):
        total += flat(_gradients(replica, index, graph=False), replica.values)
    return total


def flat(parts: Sequence[Tensor | None], values: Sequence[Tensor]) -> Tensor:
    """Tensors in the shapes of the parameters as one vector; None is zero."""
    dtype = _wide(values)
    return torch.cat([
        (torch.zeros_like(value) if part is None else part).detach().reshape(-1).to(dtype)
        for part, value in zip(parts, values, strict=True)
    ])  # fmt: skip


def parts(vector: Tensor, values: Sequence[Tensor]) -> list[Tensor]:
    """A vector in the shapes and dtypes of the parameters."""
    starts = accumulate((value.numel() for value in values), initial=0)
    return [
        vector.narrow(0, at, value.numel()).view_as(value).to(value)
        for at, value in zip(starts, values, strict=False)
    ]


def _product(
    batches: Iterable[Gradients], values: Sequence[Tensor], vector: Tensor, *, keep: bool
) -> Tensor:
    wanted = parts(vector, values)
    total = torch.zeros_like(vector)
    for gradients in batches:
        used = [
            (found, way)
            for found, way in zip(gradients, wanted, strict=True)
            if found is not None and found.requires_grad
        ]
        if not used:
            continue  # linear in every parameter: no curvature
        found, ways = zip(*used, strict=True)
        second = torch.autograd.grad(found, values, ways, retain_graph=keep, allow_unused=True)
        total += flat(second, values)
    return total


def _gradients(replica: Replica, index: int, *, graph: bool) -> Gradients:
    loss = replica.losses(index).sum() / replica.total
    return torch.autograd.grad(loss, replica.values, create_graph=graph, allow_unused=True)


def _wide(values: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if any(v.dtype == torch.float64 for v in values) else torch.float32
