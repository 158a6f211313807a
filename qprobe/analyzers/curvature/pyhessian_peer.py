"""PyHessian's trace and top eigenvalues, kept away from everything that it would change.

PyHessian 0.1 puts the model it is given into evaluation mode, accumulates gradients with their
graphs in its parameters, draws from the global generator, stops a trace as soon as two running
means agree (at once where they are negative), assumes float32, and fails on a parameter without
gradient. Here it gets the replica, a loss that touches every parameter with weight zero, a
tolerance that never stops it, and its random numbers in a region that gives the state back. Its
``density`` calls ``torch.eig``, which is gone; :func:`qprobe.stats.spectral_density` is used.

Reference: Yao et al. 2020, "PyHessian: neural networks through the lens of the Hessian".
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qprobe.analyzers.curvature.hessian import flat
from qprobe.analyzers.curvature.replica import Replica
from qprobe.errors import InputError
from qprobe.stats import Eigenvalues, Estimate, Operator


def trace(replica: Replica, draws: int, seed: int) -> Estimate:
    """Hutchinson's estimate by PyHessian, with the standard error that it does not give."""
    if draws < 2:
        raise InputError(f"a standard error needs at least 2 draws, got {draws}.")
    with _isolated(replica, seed) as peer:
        values = np.asarray(peer.trace(maxIter=draws, tol=-math.inf), dtype=np.float64)
    return Estimate(
        estimate=float(values.mean()),
        stderr=float(values.std(ddof=1) / np.sqrt(len(values))),
        draws=len(values),
    )


def top_eigenvalues(
    replica: Replica, operator: Operator, count: int, iterations: int, seed: int
) -> Eigenvalues:
    """Eigenvalues of largest magnitude by PyHessian's power iteration, each with its residual.

    The values are Rayleigh quotients ``θ = vᵀHv`` of its vectors; an eigenvalue lies within
    ``‖Hv − θv‖`` of θ. The bound does not say that none was passed over.
    """
    count = min(count, operator.size)
    with _isolated(replica, seed) as peer:
        _, vectors = peer.eigenvalues(maxIter=iterations, top_n=count)
    values, residuals, units = [], [], []
    for vector in vectors:
        unit, value, residual = _rayleigh(operator, flat(vector, replica.values))
        values.append(value)
        residuals.append(residual)
        units.append(unit)
    return Eigenvalues(
        values=tuple(values),
        residuals=tuple(residuals),
        vectors=torch.stack(units),
        products=count * (iterations + 1),
    )


def _rayleigh(operator: Operator, vector: Tensor) -> tuple[Tensor, float, float]:
    norm = vector.double().norm()
    if float(norm) == 0.0:  # the power iteration ended in the kernel of H: H = 0 on what is left
        vector, norm = torch.ones_like(vector), torch.tensor(math.sqrt(len(vector)))
    unit = (vector.double() / norm.to(vector.device)).to(operator.dtype)
    product = operator(unit).double()
    value = float(unit.double().dot(product))
    return unit, value, float((product - value * unit.double()).norm())


class _Loss(nn.Module):
    """The mean loss over all samples; every parameter is touched, with weight 0."""

    def __init__(self, replica: Replica) -> None:
        super().__init__()
        self.replica = replica

    def forward(self, _: Tensor) -> Tensor:
        replica = self.replica
        total = torch.stack([replica.losses(at).sum() for at in range(len(replica.batches))]).sum()
        zero = torch.stack([0.0 * value.square().sum() for value in replica.values]).sum()
        return total / replica.total + zero


@contextmanager
def _isolated(replica: Replica, seed: int) -> Iterator[Any]:
    from pyhessian import hessian

    first = replica.values[0]
    # All batches are one to PyHessian, whose gradient it then computes once.
    data = (torch.empty(0), torch.empty(0))
    before = torch.get_default_dtype()
    with warnings.catch_warnings(), np.errstate(all="ignore"), replica.undisturbed():
        warnings.filterwarnings("ignore", message=r"Using backward\(\) with create_graph=True")
        torch.manual_seed(seed)
        torch.set_default_dtype(first.dtype)
        try:
            peer = hessian(_Loss(replica), lambda loss, _: loss, data=data, cuda=False)
            peer.device = first.device
            yield peer
        finally:
            torch.set_default_dtype(before)
            for value in replica.values:
                value.grad = None
