"""First and second order of the loss along given changes of the weights, with standard errors.

The loss as a function of one number per change, ``L(w + Σ t_i·d_i)``, has at t = 0 the gradient
``gᵀd_i`` and the Hessian ``d_iᵀHd_j``: both come from one forward pass with the numbers as the only
variables, whatever the size of the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qprobe.analyzers.curvature.replica import Replica

Floats = npt.NDArray[np.float64]
#: A change of some parameters, by name.
Change = Mapping[str, Tensor]

#: Parts into which the samples are divided at least, where there are as many.
_UNITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """Per unit (a batch, or part of one): orders of the loss along k changes."""

    #: Samples of each unit, ``[units]``.
    samples: Floats
    #: ``gᵀd_i``, ``[units, k]``.
    first: Floats
    #: ``d_iᵀHd_j``, ``[units, k, k]``.
    second: Floats

    def mean(self, values: Floats) -> tuple[float, float]:
        """Mean over samples of a value per unit, and its standard error from unit to unit."""
        return weighted(values, self.samples)


def weighted(values: Floats, samples: Floats) -> tuple[float, float]:
    """``v̄ = Σ n_u·v_u / N`` and ``√(U/(U−1)·Σ n_u²(v_u − v̄)²) / N`` over U ≥ 2 units.

    The error is that of a ratio estimate: nearly unbiased where units are alike in size.

    Reference: Cochran 1977, "Sampling techniques", sec. 2.11.

    >>> mean, error = weighted(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    >>> mean, error  # the error of a mean of two: |1 − 3|/2
    (2.0, 1.0)
    """
    total, units = samples.sum(), len(samples)
    mean = float((samples * values).sum() / total)
    spread = float((samples**2 * (values - mean) ** 2).sum())
    return mean, float(np.sqrt(units / (units - 1) * spread) / total)


def expand(replica: Replica, changes: Sequence[Change]) -> Expansion:
    """Orders of the loss along every change and pair of changes.

    Cost: for each unit one pass forward and two back, and one more back for each change.
    """
    rows = [row for index in range(len(replica.batches)) for row in _batch(replica, index, changes)]
    samples, first, second = zip(*rows, strict=True)
    return Expansion(
        samples=np.asarray(samples, dtype=np.float64),
        first=np.stack(first),
        second=np.stack(second),
    )


def changed_losses(replica: Replica, change: Change) -> Floats:
    """``L(w + d) − L(w)`` per unit, measured."""
    parameters = dict(zip(replica.names, replica.values, strict=True))
    moved = {name: parameters[name] + delta for name, delta in change.items()}
    found = []
    with torch.no_grad():
        for index in range(len(replica.batches)):
            apart = (replica.losses(index, moved) - replica.losses(index)).double()
            found += [float(apart[unit].mean()) for unit in _units(replica, index)]
    return np.asarray(found)


def _batch(
    replica: Replica, index: int, changes: Sequence[Change]
) -> list[tuple[float, Floats, Floats]]:
    parameters = dict(zip(replica.names, replica.values, strict=True))
    device = replica.values[0].device
    t = torch.zeros(len(changes), dtype=torch.float64, device=device, requires_grad=True)
    moved = {name: parameters[name].detach() for change in changes for name in change}
    for at, change in enumerate(changes):
        for name, delta in change.items():
            moved[name] = moved[name] + t[at].to(delta.dtype) * delta
    losses = replica.losses(index, moved)
    rows = []
    for unit in _units(replica, index):
        first, second = _orders(losses[unit].mean(), t)
        rows.append((float(len(unit)), first, second))
    return rows


def _orders(loss: Tensor, t: Tensor) -> tuple[Floats, Floats]:
    second = torch.zeros(len(t), len(t), dtype=torch.float64)
    if not loss.requires_grad:  # nothing that changes reaches the loss
        return np.zeros(len(t)), second.numpy()
    (first,) = torch.autograd.grad(
        loss, t, create_graph=True, allow_unused=True, materialize_grads=True
    )
    if first.requires_grad:
        for at in range(len(t)):
            (row,) = torch.autograd.grad(first[at], t, retain_graph=True, allow_unused=True)
            if row is not None:
                second[at] = row.cpu()
    return first.detach().cpu().numpy(), second.numpy()


def _units(replica: Replica, index: int) -> list[Tensor]:
    """Positions of the samples of each unit of a batch; a group is never divided."""
    count = -(-_UNITS // len(replica.batches))
    groups = replica.groups(index)
    owners = list(range(replica.samples[index])) if groups is None else list(groups)
    order = {owner: place for place, owner in enumerate(dict.fromkeys(owners))}
    count = min(count, len(order))
    units = torch.tensor([order[owner] * count // len(order) for owner in owners])
    return [torch.nonzero(units == unit).flatten() for unit in range(count)]
