"""Central moments that merge exactly, in float64."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from qprobe.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """Number, mean and central sums of finite elements; float64 tensors of one shape.

    ``m2 = Σ(x−μ)²``, ``m3 = Σ(x−μ)³``, ``m4 = Σ(x−μ)⁴``, ``absmax = max|x|``; where ``n`` is 0 all
    are 0. NaN and infinite elements are in none of them; who counts them says so beside.

    Two parts A and B merge with δ = μ_B − μ_A and n = n_A + n_B ::

        μ   = μ_A + δ n_B/n
        M2  = M2_A + M2_B + δ² n_A n_B/n
        M3  = M3_A + M3_B + δ³ n_A n_B (n_A − n_B)/n² + 3δ (n_A M2_B − n_B M2_A)/n
        M4  = M4_A + M4_B + δ⁴ n_A n_B (n_A² − n_A n_B + n_B²)/n³
              + 6δ² (n_A² M2_B + n_B² M2_A)/n² + 4δ (n_A M3_B − n_B M3_A)/n

    so a merge over any split equals one pass, up to the rounding of float64.

    Reference: Pébay 2008, equations 1.1, 2.1, 3.1; Chan, Golub and LeVeque 1983.

    >>> halves = Moments.of(torch.tensor([1.0, 3.0])), Moments.of(torch.tensor([5.0, 7.0]))
    >>> whole = halves[0].merge(halves[1])
    >>> whole.n.item(), whole.mean.item(), whole.m2.item(), whole.kurtosis().tolist()
    (4.0, 4.0, 20.0, [1.64])
    """

    n: Tensor
    mean: Tensor
    m2: Tensor
    m3: Tensor
    m4: Tensor
    absmax: Tensor

    @classmethod
    def of(cls, x: Tensor, axes: Sequence[int] | None = None) -> Self:
        """Moments of ``x`` over ``axes`` (all of them if not given), computed in float64.

        >>> Moments.of(torch.tensor([[1.0, 2.0], [3.0, float("nan")]]), [0]).mean.tolist()
        [2.0, 2.0]
        """
        over = tuple(range(x.dim())) if axes is None else tuple(axes)
        there = x.isfinite()
        wide = torch.where(there, x, 0.0).double()
        n = there.sum(over, keepdim=True).double()
        mean = wide.sum(over, keepdim=True) / n.clamp(min=1)
        d = torch.where(there, wide - mean, 0.0)
        d2 = d * d
        parts = (n, mean, *(p.sum(over, keepdim=True) for p in (d2, d2 * d, d2 * d2)))
        parts = (*parts, wide.abs().amax(over, keepdim=True) if x.numel() else torch.zeros_like(n))
        kept = [
            size for axis, size in enumerate(x.shape) if axis not in {o % x.dim() for o in over}
        ]
        return cls.unpack(torch.stack([p.reshape(kept) for p in parts]))

    @classmethod
    def unpack(cls, rows: Tensor) -> Self:
        """From the rows n, mean, m2, m3, m4, absmax of one tensor."""
        if rows.shape[0] != 6:
            raise InputError(f"moments have six rows, this tensor has {rows.shape[0]}.")
        n, mean, m2, m3, m4, absmax = rows.unbind()
        return cls(n=n, mean=mean, m2=m2, m3=m3, m4=m4, absmax=absmax)

    def pack(self) -> Tensor:
        """The rows n, mean, m2, m3, m4, absmax."""
        return torch.stack([self.n, self.mean, self.m2, self.m3, self.m4, self.absmax])

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both; neither is changed. Entries without elements add nothing."""
        if self.n.shape != other.n.shape:
            raise InputError(
                f"moments of {list(self.n.shape)} entries cannot be merged with moments of "
                f"{list(other.n.shape)}: they are of different tensors."
            )
        a, b = self.n, other.n
        n = (a + b).clamp(min=1)
        d = other.mean - self.mean
        r = d / n
        ab = a * b
        return Moments(
            n=a + b,
            mean=torch.where(a > 0, self.mean + r * b, other.mean),
            m2=self.m2 + other.m2 + d * r * ab,
            m3=self.m3
            + other.m3
            + d * r * r * ab * (a - b)
            + 3.0 * r * (a * other.m2 - b * self.m2),
            m4=self.m4
            + other.m4
            + d * r * r * r * ab * (a * a - ab + b * b)
            + 6.0 * r * r * (a * a * other.m2 + b * b * self.m2)
            + 4.0 * r * (a * other.m3 - b * self.m3),
            absmax=torch.maximum(self.absmax, other.absmax),
        )

    def total(self, axis: int | None = None) -> "Moments":
        """Entries along ``axis`` (all if not given) merged into one.

        Merging all gives a tensor's moments from its channels'. With d = μ_i − μ, all at once::

            M2 = Σ M2_i + n_i d²        M3 = Σ M3_i + 3 d M2_i + n_i d³
            M4 = Σ M4_i + 4 d M3_i + 6 d² M2_i + n_i d⁴

        >>> Moments.of(torch.tensor([[1.0, 5.0], [3.0, 7.0]]), [0]).total().kurtosis().tolist()
        [1.64]
        """
        rows = self.pack()
        rows = rows.flatten(1) if axis is None else rows.movedim(axis % self.n.dim() + 1, 1)
        n, means, m2, m3, m4, absmax = rows.unbind()
        count = n.sum(0)
        weights = n / count.clamp(min=1)
        mean = (weights * means).sum(0)
        mean = mean + (weights * (means - mean)).sum(0)  # what the first sum has rounded away
        d = means - mean
        nd2 = n * d * d
        parts = (
            count,
            torch.where(count > 0, mean, 0.0),
            (m2 + nd2).sum(0),
            (m3 + d * (3.0 * m2 + nd2)).sum(0),
            (m4 + d * (4.0 * m3 + d * (6.0 * m2 + nd2))).sum(0),
            absmax.amax(0) if len(absmax) else absmax.sum(0),
        )
        return Moments.unpack(torch.stack(parts))

    def whole(self) -> "Moments":
        """Entries along the last axis as one, by sums about their common mean.

        With d the distance of an entry's mean from it: ``M2 = Σ(M2 + n d²)``,
        ``M3 = Σ(M3 + 3d M2 + n d³)``, ``M4 = Σ(M4 + 4d M3 + 6d² M2 + n d⁴)``. The same as
        :meth:`total` up to rounding, in fewer operations.

        >>> Moments.of(torch.tensor([[1.0, 5.0], [3.0, 7.0]]), [0]).whole().kurtosis().tolist()
        [1.64]
        """
        n = self.n.sum(-1)
        if not self.n.shape[-1]:
            return Moments(n=n, mean=n, m2=n, m3=n, m4=n, absmax=n)
        share = self.n / n.clamp(min=1)[..., None]
        first = self.mean[..., :1]
        mean = first + (share * (self.mean - first)).sum(-1, keepdim=True)
        mean = torch.where(n[..., None] > 0, mean, 0.0)
        d = torch.where(self.n > 0, self.mean - mean, 0.0)
        d2, nd2 = d * d, self.n * d * d
        return Moments(
            n=n,
            mean=mean[..., 0],
            m2=(self.m2 + nd2).sum(-1),
            m3=(self.m3 + 3.0 * d * self.m2 + nd2 * d).sum(-1),
            m4=(self.m4 + 4.0 * d * self.m3 + 6.0 * d2 * self.m2 + nd2 * d2).sum(-1),
            absmax=self.absmax.amax(-1),
        )

    @property
    def spread(self) -> Tensor:
        """Which entries have a variance above zero: those that have a shape to speak of."""
        return self.m2 > 0

    def std(self) -> Tensor:
        """``√(M2/n)``, the population's (biased low by about 1/2n) where n > 0; one dimension."""
        there = self.n > 0
        return (self.m2[there] / self.n[there]).sqrt()

    def skewness(self) -> Tensor:
        """``√n M3 / M2^{3/2}`` of the entries that have spread, in their order, one dimension."""
        n, m2, m3 = (v[self.spread] for v in (self.n, self.m2, self.m3))
        return (m3 / m2) * (n / m2).sqrt()

    def kurtosis(self) -> Tensor:
        """``n M4 / M2²`` of the entries that have spread (normal = 3), in their order.

        Constant and empty entries have none and are left out: no data, not NaN. Biased low in small
        samples (largest possible value n − 2 + 1/(n−1)).
        """
        n, m2, m4 = (v[self.spread] for v in (self.n, self.m2, self.m4))
        return n * (m4 / m2) / m2
