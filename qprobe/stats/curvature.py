"""Curvature of a loss from products with its Hessian: trace, quadratic form, spectrum.

Everything here asks an operator for ``H·v`` and nothing else, so it runs on an explicit matrix as
well as on a network's Hessian. H is symmetric and the same at every call: no dropout, no shuffled
batches. Vectors have the operator's dtype; sums, tridiagonal matrices and results are float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from qprobe.errors import InputError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A symmetric matrix that is known by its products.

    >>> matrix = torch.diag(torch.tensor([2.0, 3.0], dtype=torch.float64))
    >>> Operator(matvec=matrix.mv, size=2)(torch.ones(2)).tolist()
    [2.0, 3.0]
    """

    #: ``v ↦ H·v``, both ``[size]``.
    matvec: Callable[[Tensor], Tensor]
    size: int
    dtype: torch.dtype = torch.float64
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"an operator has at least one row, got a size of {self.size}.")

    def __call__(self, vector: Tensor) -> Tensor:
        """``H·v``, checked."""
        if vector.shape != (self.size,):
            raise InputError(f"H·v takes v of shape ({self.size},), got {tuple(vector.shape)}.")
        product = self.matvec(vector.to(self.device, self.dtype)).detach()
        if product.shape != (self.size,):
            raise InputError(
                f"H·v has shape {tuple(product.shape)}, expected ({self.size},); flatten the "
                "parameters in the order of v."
            )
        if not bool(product.isfinite().all()):
            raise InputError(
                "H·v holds NaN or infinity; measure curvature where the loss is finite, in "
                "float32 or better."
            )
        return product.to(self.dtype)

    def asymmetry(self, generator: torch.Generator) -> float:
        """``|uᵀHv − vᵀHu| / (‖u‖·‖Hv‖ + ‖v‖·‖Hu‖)`` of two random vectors; two products.

        Rounding alone gives about the machine epsilon; much more means that H changes between calls
        (dropout, other batches) or is no Hessian.
        """
        u, v = self.draw(generator), self.draw(generator)
        hu, hv = self(u).double(), self(v).double()
        u, v = u.double(), v.double()
        scale = float(u.norm() * hv.norm() + v.norm() * hu.norm())
        return float((u.dot(hv) - v.dot(hu)).abs()) / scale if scale else 0.0

    def draw(self, generator: torch.Generator) -> Tensor:
        """A normal vector, drawn on the generator's device."""
        drawn = torch.randn(self.size, generator=generator, device=generator.device)
        return drawn.to(self.device, self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over random draws."""

    estimate: float
    #: Standard error of the estimate; None from one draw.
    stderr: float | None
    draws: int


def hutchinson_trace(operator: Operator, draws: int, generator: torch.Generator) -> Estimate:
    """Trace of H, ``mean of zᵀHz`` over vectors z of random signs.

    Unbiased, with variance ``2·Σ_{i≠j} H_ij² / draws``: exact from one draw where H is diagonal,
    slow where it is far from it. The standard error is estimated from the draws.

    Reference: Hutchinson 1989, "A stochastic estimator of the trace of the influence matrix".

    >>> matrix = torch.diag(torch.tensor([2.0, -5.0]))
    >>> hutchinson_trace(Operator(matvec=matrix.double().mv, size=2), 3, torch.Generator())
    Estimate(estimate=-3.0, stderr=0.0, draws=3)
    """
    values = []
    for _ in range(_positive(draws, "draws")):
        z = _signs(operator, generator)
        values.append(float(z.double().dot(operator(z).double())))
    return _mean(np.asarray(values))


def block_traces(
    operator: Operator, sizes: Sequence[int], draws: int, generator: torch.Generator
) -> tuple[Estimate, ...]:
    """Traces of H's diagonal blocks of ``sizes`` rows, ``mean of z_bᵀ(Hz)_b`` for block b.

    Unbiased for each block, from the products of one trace. The variance of a block holds its whole
    rows, ``Σ_{i∈b, j≠i} H_ij²·(1 or 2) / draws``: what other blocks share with it adds noise.

    Reference: Yao et al. 2021, "HAWQ-V3", sec. 3.2, traces of single layers; Hutchinson 1989.

    >>> matrix = torch.diag(torch.tensor([2.0, -5.0, 1.0])).double()
    >>> operator = Operator(matvec=matrix.mv, size=3)
    >>> [one.estimate for one in block_traces(operator, [2, 1], 3, torch.Generator())]
    [-3.0, 1.0]
    """
    if sum(sizes) != operator.size or min(sizes, default=0) < 1:
        raise InputError(
            f"blocks of {list(sizes)} rows do not make up an operator of {operator.size} rows."
        )
    values = []
    for _ in range(_positive(draws, "draws")):
        z = _signs(operator, generator)
        products = z.double() * operator(z).double()
        starts = accumulate(sizes, initial=0)
        blocks = zip(starts, sizes, strict=False)
        values.append([float(products.narrow(0, at, size).sum()) for at, size in blocks])
    return tuple(_mean(column) for column in np.asarray(values).T)


def quadratic_form(operator: Operator, direction: Tensor) -> float:
    """``dᵀHd`` of a direction ``[size]``: twice the second-order change of the loss along it.

    Exact to rounding; one product.

    Reference: LeCun, Denker, Solla 1989, "Optimal brain damage", eq. 1, the second-order term.

    >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    >>> quadratic_form(Operator(matvec=matrix.mv, size=2), torch.tensor([1.0, -1.0]))
    0.0
    """
    d = direction.detach().to(operator.device, operator.dtype)
    return float(d.double().dot(operator(d).double()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Krylov:
    """``H·Q = Q·T + β·q·e_lastᵀ`` with orthonormal Q and tridiagonal T."""

    #: Diagonal ``[steps]`` and off-diagonal ``[steps − 1]`` of T.
    diagonal: Array
    off_diagonal: Array
    #: β: how far Q is from a space that H maps into itself; 0 where it is one.
    residual: float
    #: Q as rows, ``[steps, size]``.
    basis: Tensor

    def eigen(self) -> tuple[Array, Array]:
        """Eigenvalues of T in ascending order, and its eigenvectors as columns."""
        if len(self.diagonal) == 1:
            return self.diagonal.copy(), np.ones((1, 1))
        values, vectors = eigh_tridiagonal(self.diagonal, self.off_diagonal)
        return values, vectors


def lanczos(
    operator: Operator, start: Tensor, steps: int, restart: torch.Generator | None = None
) -> Krylov:
    """At most ``steps`` steps of Lanczos from ``start``, fully reorthogonalised.

    Where the space of the basis is one that H maps into itself, it goes on with a random vector
    from ``restart``, orthogonal to the basis, or ends there if none is given. Memory: ``steps``
    vectors.

    Reference: Golub, Van Loan 2013, "Matrix computations", algorithm 10.1.1 and sec. 10.3.

    >>> matrix = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
    >>> found = lanczos(Operator(matvec=matrix.mv, size=2), torch.ones(2), steps=5)
    >>> found.eigen()[0].round(12).tolist(), found.residual
    ([1.0, 3.0], 0.0)
    """
    steps = min(_positive(steps, "steps"), operator.size)
    basis = torch.zeros(steps, operator.size, dtype=operator.dtype, device=operator.device)
    vector = _unit(start.to(basis))
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    residual, scale = 0.0, 0.0
    for k in range(steps):
        basis[k] = vector
        product = operator(vector)
        diagonal.append(float(product.double().dot(vector.double())))
        rest = _orthogonal(product, basis[: k + 1])
        residual = float(rest.double().norm())
        scale = max(scale, float(product.double().norm()))
        residual = 0.0 if residual <= _negligible(operator, scale) else residual
        if k + 1 == steps:
            break
        if residual == 0.0:
            if restart is None:
                break
            rest = operator.draw(restart)
        vector = _unit(_orthogonal(_unit(_orthogonal(rest, basis[: k + 1])), basis[: k + 1]))
        off_diagonal.append(residual)
    return Krylov(
        diagonal=np.asarray(diagonal),
        off_diagonal=np.asarray(off_diagonal),
        residual=residual,
        basis=basis[: len(diagonal)],
    )


class End(StrEnum):
    """Which eigenvalues come first."""

    LARGEST = "largest"
    SMALLEST = "smallest"
    MAGNITUDE = "magnitude"


@dataclass(frozen=True, slots=True, kw_only=True)
class Eigenvalues:
    """Eigenvalues in the order asked for."""

    values: tuple[float, ...]
    #: An eigenvalue of H lies within this distance of each value.
    residuals: tuple[float, ...]
    #: Unit eigenvectors as rows, ``[count, size]``.
    vectors: Tensor
    #: Products with H that were used.
    products: int


def top_eigenvalues(
    operator: Operator,
    count: int,
    steps: int,
    generator: torch.Generator,
    end: End = End.LARGEST,
) -> Eigenvalues:
    """Eigenvalues at one end of the spectrum, by Lanczos, each with its residual bound.

    With T's eigenpair (θ, s) and the last β, ``‖H·y − θ·y‖ = β·|s_last|`` for y = Qᵀs, so some
    eigenvalue of H lies within that distance of θ. The bound does not say that none was passed
    over: equal eigenvalues are found one by one, a second copy only once the rest has converged (at
    ``steps`` ≥ size all are there). Ritz values never lie outside the spectrum, so the largest
    is low and the smallest high. Rounding adds about the dtype's epsilon times ‖H‖.

    Reference: Parlett 1998, "The symmetric eigenvalue problem", ch. 13.

    >>> matrix = torch.diag(torch.tensor([1.0, -4.0, 3.0], dtype=torch.float64))
    >>> operator = Operator(matvec=matrix.mv, size=3)
    >>> found = top_eigenvalues(operator, 2, 3, torch.Generator(), End.MAGNITUDE)
    >>> [round(value, 9) for value in found.values]
    [-4.0, 3.0]
    """
    if _positive(count, "count") > min(steps, operator.size):
        raise InputError(
            f"{count} eigenvalues of a matrix of {operator.size} rows need at least "
            f"{count} rows and steps, got {steps} steps."
        )
    krylov = lanczos(operator, operator.draw(generator), steps, restart=generator)
    values, vectors = krylov.eigen()
    key = {
        End.LARGEST: -values,
        End.SMALLEST: values,
        End.MAGNITUDE: -np.abs(values),
    }[end]
    order = np.argsort(key, kind="stable")[:count]
    chosen = torch.from_numpy(vectors[:, order].T.copy()).to(krylov.basis)
    return Eigenvalues(
        values=tuple(values[order].tolist()),
        residuals=tuple((krylov.residual * np.abs(vectors[-1, order])).tolist()),
        vectors=chosen @ krylov.basis,
        products=len(values),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """Quadrature of the eigenvalue density: for each draw, nodes with weights that sum to 1."""

    nodes: tuple[Array, ...]
    weights: tuple[Array, ...]
    size: int

    def mean(self, function: Callable[[Array], Array]) -> Estimate:
        """Mean of a function of the eigenvalues, ``tr f(H) / size``.

        >>> one = Spectrum(nodes=(np.array([1.0, 3.0]),), weights=(np.array([0.5, 0.5]),), size=2)
        >>> one.mean(lambda x: x**2).estimate
        5.0
        """
        draws = zip(self.nodes, self.weights, strict=True)
        return _mean(np.asarray([float(np.dot(w, function(x))) for x, w in draws]))

    def density(self, grid: Array, width: float) -> Array:
        """The density at ``grid``, each node widened to a normal of spread ``width``."""
        if not width > 0:
            raise InputError(f"the width of a density is positive, got {width}.")
        total = np.zeros(len(grid))
        for nodes, weights in zip(self.nodes, self.weights, strict=True):
            bells = np.exp(-0.5 * ((grid[:, None] - nodes) / width) ** 2)
            total += bells @ weights
        peak: float = len(self.nodes) * width * np.sqrt(2 * np.pi)
        return total / peak

    def share_below(self, limit: float = 0.0) -> Estimate:
        """Share of the eigenvalues below ``limit``; the steps' resolution limits it near there."""
        return self.mean(lambda x: (x < limit).astype(np.float64))


def spectral_density(
    operator: Operator, draws: int, steps: int, generator: torch.Generator
) -> Spectrum:
    """Density of H's eigenvalues by stochastic Lanczos quadrature.

    From each of ``draws`` random directions v, ``steps`` of Lanczos give T; its eigenvalues are the
    nodes and the squared first components of its eigenvectors the weights. For one v the moments
    ``vᵀH^p v`` are exact up to p = 2·steps − 1; over directions the mean is unbiased, and its
    standard error comes with every number read from it. Weights below 1/(size·draws) mean little.

    Reference: Ubaru, Chen, Saad 2017, "Fast estimation of tr(f(A)) via stochastic Lanczos
    quadrature", algorithm 1.

    >>> matrix = torch.diag(torch.tensor([5.0, 5.0], dtype=torch.float64))
    >>> found = spectral_density(Operator(matvec=matrix.mv, size=2), 2, 3, torch.Generator())
    >>> round(found.mean(lambda x: x).estimate, 9), found.share_below().estimate
    (5.0, 0.0)
    """
    nodes, weights = [], []
    for _ in range(_positive(draws, "draws")):
        values, vectors = lanczos(operator, operator.draw(generator), steps).eigen()
        nodes.append(values)
        weights.append(vectors[0] ** 2)
    return Spectrum(nodes=tuple(nodes), weights=tuple(weights), size=operator.size)


def _signs(operator: Operator, generator: torch.Generator) -> Tensor:
    signs = torch.randint(2, (operator.size,), generator=generator, device=generator.device)
    return (2.0 * signs - 1.0).to(operator.device, operator.dtype)


def _mean(values: Array) -> Estimate:
    n = len(values)
    stderr = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    return Estimate(estimate=float(values.mean()), stderr=stderr, draws=n)


def _positive(value: int, name: str) -> int:
    if value < 1:
        raise InputError(f"{name} is at least 1, got {value}.")
    return value


def _unit(vector: Tensor) -> Tensor:
    norm = vector.double().norm()
    if not bool((norm > 0) & norm.isfinite()):
        raise InputError("Lanczos starts from a finite vector that is not zero.")
    unit: Tensor = (vector.double() / norm).to(vector.dtype)
    return unit


def _orthogonal(vector: Tensor, basis: Tensor) -> Tensor:
    """``vector`` less its part in ``basis``; twice, which is enough (Kahan, Parlett)."""
    for _ in range(2):
        vector = vector.addmv(basis.T, basis.mv(vector), alpha=-1)
    return vector


def _negligible(operator: Operator, scale: float) -> float:
    """What rounding leaves of a product of norm ``scale``."""
    return float(10.0 * torch.finfo(operator.dtype).eps * operator.size**0.5 * scale)
