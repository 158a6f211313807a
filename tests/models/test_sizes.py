from dataclasses import dataclass

import pytest

from qprobe.errors import InputError
from qprobe.models.sizes import check_counts, check_rates, configure


@dataclass(frozen=True, kw_only=True)
class Config:
    image: tuple[int, int]
    width: int
    rate: float = 0.1


SIZES = {"small": {"width": 4}, "large": {"width": 40, "rate": 0.5}}


def test_options_replace_the_values_of_the_size():
    geometry = {"image": (8, 8)}
    assert configure(Config, SIZES, "large", geometry, {}) == Config(
        image=(8, 8), width=40, rate=0.5
    )
    changed = configure(Config, SIZES, "large", geometry, {"width": 3})
    assert changed == Config(image=(8, 8), width=3, rate=0.5)


def test_what_the_call_gives_is_no_option():
    with pytest.raises(InputError, match="takes no option 'image'"):
        configure(Config, SIZES, "small", {"image": (8, 8)}, {"image": (9, 9)})


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "3"])
def test_counts_are_whole_and_positive(count):
    with pytest.raises(InputError, match="width must be a whole number >= 1"):
        check_counts("Config", {"width": count})


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rates_are_probabilities_below_one(rate):
    with pytest.raises(InputError, match=r"rate must be in \[0, 1\)"):
        check_rates("Config", {"rate": rate})
