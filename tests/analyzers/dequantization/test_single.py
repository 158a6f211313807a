"""In which order layers are measured."""

from types import SimpleNamespace

import pytest

from qprobe.analyzers.dequantization.single import screen_order

SCREEN = {"a": 1.0, "b": 5.0, "c": -9.0, "d": 3.0, "e": -0.5, "f": 2.0, "g": -4.0, "h": 0.1}


@pytest.mark.parametrize(
    ("sloped", "order"), [(False, "bdfahegc"), (True, "bdfc" + "aheg"), (True, "?bdfcaheg")]
)
def test_by_value_and_of_gains_every_fourth_by_magnitude(sloped, order):
    """Layers of which nothing is known come first."""
    layers = dict.fromkeys([*SCREEN, *("?" if "?" in order else "")])
    measurement = SimpleNamespace(layers=layers, screen=SCREEN, sloped=sloped)
    assert "".join(screen_order(measurement)) == order
