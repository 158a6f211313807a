"""In which order layers are measured."""

import pytest

from qprobe.analyzers.dequantization.order import for_the_cost, screen_order

SCREEN = {"a": 1.0, "b": 5.0, "c": -9.0, "d": 3.0, "e": -0.5, "f": 2.0, "g": -4.0, "h": 0.1}


@pytest.mark.parametrize(
    ("unsure", "order"),
    [({}, "bdfahegc"), ({"b": 9.0, "e": 3.0}, "bdfeahgc"), ({"e": 3.0}, "?bdfeahgc")],
)
def test_by_value_and_every_fourth_by_how_unsure_it_is(unsure, order):
    """Layers of which nothing is known come first."""
    layers = [*SCREEN, *("?" if "?" in order else "")]
    assert "".join(screen_order(layers, SCREEN, unsure)) == order


def test_places_are_weighed_by_the_root_of_the_cost():
    """Places 1 to 4, times 1, 1/2, 1/3 and 1: what costs is not known costs a whole pass."""
    again = {"a": 1.0, "b": 1 / 4, "c": 1 / 9 - 1e-6}
    assert for_the_cost("abcd", again) == ["c", "a", "b", "d"]
    assert for_the_cost("dcba", {}) == ["d", "c", "b", "a"]
