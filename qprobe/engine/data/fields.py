"""Smooth random fields and soft edges, the brush strokes of the phantoms.

No call here reaches a threaded library, so a field has the same bits on one core and on many.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# float32 throughout; the type says less because NumPy's says float64 for float32 times a float.
Field = NDArray[Any]


@lru_cache(maxsize=128)
def _basis(points: int, cells: int) -> Field:
    """Uniform cubic B-splines at the centres of ``points`` pixels: ``[points, cells + 3]``."""
    position = (np.arange(points) + 0.5) / points * cells
    cell = position.astype(np.int64)
    t = position - cell
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    basis = np.zeros((points, cells + 3), np.float32)
    for offset, weight in enumerate(weights):
        basis[np.arange(points), cell + offset] = weight / 6
    return basis


def smooth(rng: np.random.Generator, shape: tuple[int, ...], cells: tuple[int, ...]) -> Field:
    """A Gaussian field of unit variance that varies over ``cells`` cells along each axis."""
    field: Field = rng.standard_normal([count + 3 for count in cells], dtype=np.float32)
    for points, count in zip(shape, cells, strict=True):
        # The axis in front is contracted and comes back last, so the axes end in their own order.
        field = np.einsum("a...,na->...n", field, _basis(points, count))
    return np.ascontiguousarray(field / max(float(field.std()), 1e-6))


def edge(depth: Field, width: float) -> Field:
    """0 outside, 1 inside and 1/2 on the edge, where ``depth`` is 0; linear over ``width``.

    >>> edge(np.array([-1.0, 0.0, 0.25, 1.0], np.float32), 1.0).tolist()
    [0.0, 0.5, 0.75, 1.0]
    """
    return np.asarray(np.clip(depth / np.float32(width) + np.float32(0.5), 0, 1))


def bump(squared: Field) -> Field:
    """A smooth hill of height 1 and support 1 in the squared distance: ``(1 − d²)²₊``.

    >>> bump(np.array([0.0, 0.5, 1.0, 4.0], np.float32)).tolist()
    [1.0, 0.25, 0.0, 0.0]
    """
    rest = np.maximum(np.float32(1) - squared, 0)
    return np.asarray(rest * rest)


def wave(rng: np.random.Generator, harmonics: range, angles: int) -> Field:
    """A closed curve of unit variance over ``angles`` angles, made of these harmonics."""
    phi = np.linspace(0, 2 * np.pi, angles, endpoint=False)
    phases = rng.uniform(0, 2 * np.pi, len(harmonics))
    heights = rng.uniform(0.5, 1.0, len(harmonics))
    curve = sum(
        height * np.sin(k * phi + phase)
        for k, height, phase in zip(harmonics, heights, phases, strict=True)
    )
    scale = np.sqrt(np.sum(heights**2) / 2)
    return np.asarray(curve / scale, np.float32)
