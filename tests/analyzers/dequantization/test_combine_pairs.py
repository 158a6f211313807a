"""Pairs of layers: what is told of 28 of them when there is nothing to tell, and when there is."""

from contextlib import nullcontext
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from qprobe.analyzers.dequantization import combine
from qprobe.analyzers.dequantization.combine import AND, pairs
from qprobe.analyzers.dequantization.emit import Measured
from qprobe.inference import Resampling, replicate

LAYERS = [f"layer{n}" for n in range(8)]
GROUPS = 30


class Scored:
    """A measurement of 8 layers whose gains add up, but for what each pair draws by itself.

    ``few``: only so large a share of the groups changes at all, as under an accuracy.
    """

    def __init__(self, seed, few=1.0, truth=0.0):
        drawn = np.random.default_rng(seed)

        def change():
            return drawn.normal(size=GROUPS) * (drawn.random(GROUPS) < few)

        alone = {path: change() for path in LAYERS}
        self.gained = {(path,): values for path, values in alone.items()}
        for first, second in combinations(LAYERS, 2):
            self.gained[first, second] = alone[first] + alone[second] + change()
        self.gained["layer0", "layer1"] += truth
        self.search = SimpleNamespace(pairs=8)
        self.known = Measured([])
        self.clock = SimpleNamespace(part=lambda _: nullcontext())
        self.asked = []

    def best(self, count):
        return LAYERS[:count]

    def variant(self, paths):
        return tuple(paths)

    def gains(self, variants):
        self.asked += variants
        return {
            name: replicate(
                self.gained[paths][:, None] / GROUPS,
                lambda totals: totals[:, 0],
                Resampling(generator=np.random.default_rng(0), draws=300),
            )
            for name, paths in variants.items()
        }


def told(measurement):
    found = Measured(pairs(measurement)).entries("interaction")
    assert len(found) == 28
    return {one.site for one in found if one.interval.excludes(0.0)}


@pytest.mark.parametrize("few", [1.0, 0.3])
def test_a_pair_is_found_by_chance_in_one_report_of_twenty(few):
    trials = 40
    false = sum(bool(told(Scored(seed, few))) for seed in range(trials))
    assert false <= stats.binom.ppf(0.99, trials, 0.05)


@pytest.mark.parametrize("few", [1.0, 0.3])
def test_with_limits_of_its_own_each_one_is_in_most_reports(few, monkeypatch):
    """Why they are widened: 1 − 0.95²⁸ = 0.76 where pairs are independent."""
    monkeypatch.setattr(combine, "of_family", lambda found, family, even: found)
    false = sum(bool(told(Scored(seed, few))) for seed in range(10))
    assert false >= 6


def test_a_pair_that_fails_only_together_is_still_found():
    """One standard deviation of what a group shows, of which 30 groups show the mean."""
    found = [told(Scored(seed, truth=1.0)) for seed in range(10)]
    assert sum("layer0 + layer1" in one for one in found) >= 8


def test_an_interruption_changes_no_limit_and_measures_no_pair_again():
    whole = list(pairs(Scored(0)))
    cut = [at for at, one in enumerate(whole) if one.key == "interaction.n"][9] + 1
    rest = Scored(0)
    rest.known = Measured(whole[:cut])
    assert whole[:cut] + list(pairs(rest)) == whole
    assert sum(AND in name for name in rest.asked) == 18
