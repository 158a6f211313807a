"""Sums that keep what rounding would lose, so that the order of merging does not show.

A sum is a float64 tensor ``[2, ...]``: the rounded sum and the remainder that rounding left out.
Adding two keeps about 106 bits, so partial sums of micro-batches or ranks give, once read with
:func:`total`, the same float64 number in whatever order and grouping they were merged, unless they
cancel to less than about 10⁻¹⁶ of the largest part.
"""

import torch
from torch import Tensor


def start(part: Tensor) -> Tensor:
    """A sum that holds one part so far, ``[...]`` to ``[2, ...]`` in float64."""
    wide = part.double()
    return torch.stack([wide, torch.zeros_like(wide)])


def add(first: Tensor, second: Tensor) -> Tensor:
    """The sum of two sums of the same shape.

    The remainder of ``a + b`` is found exactly by Knuth's two-sum; a sum that is infinite or NaN
    has no remainder and stays what it is.

    Reference: Dekker 1971, "A floating-point technique for extending the available precision".

    >>> large, small = start(torch.tensor(1e20)), start(torch.tensor(1.0))
    >>> total(add(add(large, small), -large)).item()
    1.0
    """
    rounded, lost = _two_sum(first[0], second[0])
    rounded, lost = _two_sum(rounded, lost + (first[1] + second[1]))
    return torch.stack([rounded, lost])


def total(sums: Tensor) -> Tensor:
    """The value of a sum, float64 ``[...]``."""
    return sums[0] + sums[1]


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``a + b`` rounded, and exactly what rounding left out."""
    rounded = a + b
    shadow = rounded - a
    lost = (a - (rounded - shadow)) + (b - shadow)
    return rounded, torch.where(rounded.isfinite(), lost, torch.zeros_like(lost))
