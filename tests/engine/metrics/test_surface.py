import itertools

import numpy as np
import pytest

from qprobe.engine.metrics import surface_dice
from qprobe.errors import InputError


def pair_by_pair(found, there, tolerance, spacing):
    """Boundaries by looking at each neighbour, distances between all pairs."""

    def boundary(mask):
        points = []
        for place in np.argwhere(mask):
            for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
                near = place.copy()
                near[axis] += step
                outside = near[axis] < 0 or near[axis] >= mask.shape[axis]
                if outside or not mask[tuple(near)]:
                    points.append(place * np.array(spacing))
                    break
        return np.array(points)

    one, other = boundary(found), boundary(there)
    apart = np.sqrt(((one[:, None] - other[None]) ** 2).sum(-1))
    close = (apart.min(1) <= tolerance).sum() + (apart.min(0) <= tolerance).sum()
    return close / (len(one) + len(other))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tolerance", [0.0, 1.01, 2.3])
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((12, 9), (1.0, 1.0)), ((9, 12), (0.7, 2.0)), ((5, 6, 7), (3.0, 1.0, 0.5))],
)
def test_equals_all_pairs_of_boundary_points(seed, tolerance, shape, spacing):
    generator = np.random.default_rng(seed)
    found, there = generator.random((2, *shape)) < 0.6
    expected = pair_by_pair(found, there, tolerance, spacing)
    assert surface_dice(found, there, tolerance, spacing) == pytest.approx(expected, abs=1e-12)


def test_two_points_apart_by_hand():
    """Three rows and four columns away at 2 mm by 1 mm: √(6² + 4²) = 7.2 mm."""
    one, other = np.zeros((2, 8, 8), bool)
    one[1, 1] = other[4, 5] = True
    assert surface_dice(one, other, 7.3, spacing=(2, 1)) == 1.0
    assert surface_dice(one, other, 7.2, spacing=(2, 1)) == 0.0
    assert surface_dice(one, other, 5.0) == 1.0
    assert surface_dice(one, other, 4.9) == 0.0


def test_a_distance_of_exactly_the_tolerance_is_within_it():
    one, other = np.zeros((2, 1, 8), bool)
    one[0, 0] = other[0, 3] = True
    assert surface_dice(one, other, 0.3, spacing=(1, 0.1)) == 1.0


def test_what_is_empty():
    nothing, something = np.zeros((4, 4)), np.ones((4, 4))
    assert surface_dice(nothing, nothing, 1.0) == 1.0
    assert surface_dice(nothing, something, 9.0) == 0.0
    assert surface_dice(something, nothing, 9.0) == 0.0


def test_the_image_border_is_boundary():
    """A full image against itself less one column: three of four sides are shared at τ = 0."""
    full, less = np.ones((4, 4)), np.ones((4, 4))
    less[:, 3] = 0
    assert surface_dice(full, less, 0.0) == pytest.approx(2 * 8 / (12 + 10))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((np.ones((2, 2)), np.ones((2, 3)), 1.0), "masks of one shape"),
        ((np.ones((2, 2)), np.ones((2, 2)), -1.0), "distance >= 0"),
        ((np.ones((2, 2)), np.ones((2, 2)), float("nan")), "distance >= 0"),
        ((np.ones((2, 2)), np.ones((2, 2)), 1.0, (1.0,)), "for each of 2 axes"),
        ((np.ones((2, 2)), np.ones((2, 2)), 1.0, (1.0, 0.0)), "one positive distance"),
    ],
)
def test_what_has_no_surface_dice_is_refused(arguments, said):
    with pytest.raises(InputError, match=said):
        surface_dice(*arguments)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
def test_equals_monai(seed):
    pytest.importorskip("monai", reason="needs the extra 'medical'")
    import torch
    from monai.metrics import compute_surface_dice

    generator = np.random.default_rng(seed)
    found, there = generator.random((2, 16, 20)) < 0.7
    one, other = (torch.from_numpy(mask)[None, None].float() for mask in (found, there))
    theirs = compute_surface_dice(
        one, other, class_thresholds=[1.5], include_background=True, spacing=(0.8, 1.3)
    )
    assert surface_dice(found, there, 1.5, (0.8, 1.3)) == pytest.approx(theirs.item(), abs=1e-6)
