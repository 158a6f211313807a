"""Surface Dice (normalized surface distance): how much of two boundaries lies close together."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from qprobe.errors import InputError

Mask = NDArray[np.bool_]


def surface_dice(
    found: ArrayLike, there: ArrayLike, tolerance: float, spacing: Sequence[float] | None = None
) -> float:
    """``(|∂A within τ of ∂B| + |∂B within τ of ∂A|) / (|∂A| + |∂B|)`` of two masks.

    ∂ is the set of foreground elements with a background neighbour along an axis; outside the image
    is background. Every element counts once, whatever the spacing. τ = ``tolerance`` is in the unit
    of ``spacing`` (the distance between neighbours along each axis), in elements without it. Two
    empty masks give 1, one empty mask gives 0.

    >>> square = np.zeros((5, 5)); square[1:4, 1:4] = 1
    >>> surface_dice(square, np.roll(square, 1, axis=1), tolerance=0.5)
    0.5
    >>> surface_dice(square, np.roll(square, 1, axis=1), tolerance=1.0)
    1.0
    """
    one, other = np.asarray(found).astype(bool), np.asarray(there).astype(bool)
    step = _spacing(one, other, tolerance, spacing)
    if not one.any() or not other.any():
        return float(one.any() == other.any())
    box = _bounding_box(one | other)
    edge, far = _boundary(one[box]), _boundary(other[box])
    close = _within(edge, far, tolerance, step) + _within(far, edge, tolerance, step)
    return close / int(edge.sum() + far.sum())


def _within(edge: Mask, reference: Mask, tolerance: float, spacing: Sequence[float]) -> int:
    distance = distance_transform_edt(~reference, sampling=spacing)
    # A distance of exactly τ is within it, also where √ and the spacing's decimals round.
    return int((distance[edge] <= tolerance * (1 + 1e-9)).sum())


def _boundary(mask: Mask) -> Mask:
    inside: Mask = binary_erosion(mask, border_value=0)
    return mask & ~inside


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    """Where ``mask`` is: distances between boundaries inside it do not need the rest."""
    box = []
    for axis in range(mask.ndim):
        along = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(int(along[0]), int(along[-1]) + 1))
    return tuple(box)


def _spacing(
    one: Mask, other: Mask, tolerance: float, spacing: Sequence[float] | None
) -> Sequence[float]:
    if one.shape != other.shape or one.ndim == 0:
        raise InputError(
            f"surface Dice compares masks of one shape, got {one.shape}, {other.shape}."
        )
    if not tolerance >= 0:
        raise InputError(f"the tolerance is a distance >= 0, got {tolerance}.")
    step = [1.0] * one.ndim if spacing is None else [float(s) for s in spacing]
    if len(step) != one.ndim or not all(0 < s < float("inf") for s in step):
        raise InputError(
            f"spacing is one positive distance for each of {one.ndim} axes, got {spacing}."
        )
    return step
