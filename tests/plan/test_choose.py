from itertools import combinations

import numpy as np
import pytest
from sample_plans import interval, layer, whole

from qprobe.errors import InputError
from qprobe.plan import KeepLayers, KeepShare, Target, choose, evidence
from qprobe.plan.evidence import Evidence

THREE = [*whole(), *layer("a", 90, 0.15), *layer("b", 5, 0.08), *layer("c", 5, -0.02)]


def kept(found: Evidence, goal, recipe: str = "nvfp4") -> list[str]:
    return [one.path for one in choose(found, goal, recipe).kept]


def test_a_budget_buys_what_it_can():
    found = evidence(THREE)
    assert kept(found, KeepShare(0.05)) == ["b"]
    assert kept(found, KeepShare(0.04)) == []
    assert kept(found, KeepShare(0.95)) == ["a", "b"]
    assert kept(found, KeepLayers(1)) == ["a"]


def test_a_layer_that_gives_nothing_back_is_never_kept():
    assert kept(evidence(THREE), KeepShare(1.0)) == ["a", "b"]
    assert kept(evidence(THREE), KeepLayers(3)) == ["a", "b"]


def test_a_target_takes_the_fewest_parameters():
    found = evidence(THREE)
    assert kept(found, Target(0.86)) == ["b"]  # 0.774 from 0.7 + 0.08
    assert kept(found, Target(0.87)) == ["a"]  # 0.783: b alone is not enough, a alone is
    assert kept(found, Target(0.99)) == ["a", "b"]  # 0.891 of 0.93
    assert kept(found, Target(0.77)) == []  # 0.693 is there already


@pytest.mark.parametrize("seed", range(8))
def test_against_every_subset(seed):
    draw = np.random.default_rng(seed)
    costs, worth = draw.integers(1, 60, 9), draw.uniform(-0.02, 0.1, 9)
    rows = zip(costs, worth, strict=True)
    found = evidence([*whole(), *(r for i, (c, w) in enumerate(rows) for r in layer(str(i), c, w))])
    subsets = [list(s) for size in range(10) for s in combinations(range(9), size)]
    budget = int(0.3 * costs.sum())
    best = max(sum(worth[s]) for s in subsets if sum(costs[s]) <= budget)
    chosen = choose(found, KeepShare(0.3), "nvfp4")
    assert sum(one.parameters for one in chosen.kept) <= budget
    assert chosen.predicted is not None
    assert chosen.predicted.estimate - 0.7 == pytest.approx(best)

    missing = 0.93 * 0.9 - 0.7
    cheapest = min(sum(costs[s]) for s in subsets if sum(worth[s]) >= missing)
    assert choose(found, Target(0.93), "nvfp4").kept_parameters == cheapest


def test_costs_of_billions_are_rounded_and_never_exceed_the_budget():
    draw = np.random.default_rng(0)
    costs, worth = draw.integers(10**6, 10**9, 300), draw.uniform(0, 0.001, 300)
    rows = zip(costs, worth, strict=True)
    found = evidence([*whole(), *(r for i, (c, w) in enumerate(rows) for r in layer(str(i), c, w))])
    chosen = choose(found, KeepShare(0.05), "nvfp4")
    assert chosen.predicted is not None
    assert 0.049 < chosen.kept_share <= 0.05
    # The relaxed problem, which may cut a layer in two, bounds what any set can reach.
    order, left, bound = np.argsort(-worth / costs), 0.05 * costs.sum(), 0.0
    for at in order:
        bound += worth[at] * min(1.0, left / costs[at])
        left = max(0.0, left - costs[at])
    assert chosen.predicted.estimate - 0.7 >= 0.995 * bound


def test_rounding_never_lets_a_budget_be_exceeded():
    costs = {"a": 9_999, "b": 10_003, "c": 379_998}  # two parameters too many for 5 %
    worth = {"a": 0.05, "b": 0.06, "c": -0.1}
    records = [one for path in costs for one in layer(path, costs[path], worth[path])]
    assert kept(evidence([*whole(), *records]), KeepShare(0.05)) == ["b"]


def test_limits_add_up():
    predicted = choose(evidence(THREE), KeepShare(1.0), "nvfp4").predicted
    assert predicted is not None
    assert (predicted.estimate, predicted.low, predicted.high) == pytest.approx((0.93, 0.91, 0.95))
    assert (predicted.n, predicted.method) == (40, "sum of single recoveries")


def test_layers_without_parameters_cost_nothing():
    found = evidence([*whole(), *layer("attention", 0, 0.05), *layer("b", 10, 0.1)])
    assert kept(found, KeepShare(0.01)) == ["attention"]


def test_the_measured_score_of_a_set_that_was_measured():
    records = [*whole(), *layer("a", 1, 0.1), *interval("a", "cumulative", 0.09, step=1)]
    chosen = choose(evidence([*records, *layer("b", 1, 0.05)]), KeepLayers(1), "nvfp4")
    assert chosen.measured is not None
    assert chosen.measured.estimate == pytest.approx(0.79)


def test_a_screened_run_gives_an_order_and_no_score():
    found = evidence([*whole(), *layer("a", 1, screen=1.0), *layer("b", 1, screen=2.0)])
    chosen = choose(found, KeepLayers(1), "nvfp4")
    assert ([one.path for one in chosen.kept], chosen.predicted) == (["b"], None)
    assert "only screened" in chosen.notes[0]
    with pytest.raises(InputError, match="only screened"):
        choose(found, Target(0.9), "nvfp4")


@pytest.mark.parametrize(
    ("count", "says"),
    [(1, "recovery of the one layer is within"), (2, "recovery of each layer is within")],
)
def test_layers_whose_recovery_may_be_noise_are_counted_as_people_count(count, says):
    rows = [*layer("a", 10, 0.005), *layer("b", 10, 0.005)]
    found = evidence([*whole(), *rows])
    (note,) = [one for one in choose(found, KeepLayers(count), "nvfp4").notes if "noise" in one]
    assert says in note


def test_notes_say_what_to_know():
    gap = interval("", "gap", 0.005)
    records = [*whole(), *gap, *layer("a", 1, 0.3), *layer("b", 1, 0.005), *layer("c", 1)]
    notes = choose(evidence(records), KeepLayers(2), "nvfp4").notes
    said = ["contains 0", "1 of 3 layers", "1 of the 2 layers", "more than was lost"]
    assert [words in note for words, note in zip(said, notes, strict=True)] == [True] * 4


@pytest.mark.parametrize(
    ("records", "goal", "sentence"),
    [
        (THREE, Target(1.0), None),
        (
            [*whole(), *layer("a", 1, 0.1)],
            Target(0.99),
            "fall short of .* by a predicted 0.091",
        ),
        ([*whole(score_fp=0.0), *layer("a", 1, 0.1)], Target(0.9), "means nothing"),
        (layer("a", 1, 0.1), Target(0.9), "holds no scores of the whole model"),
        ([*whole(), *layer("a", 1)], KeepLayers(1), "no layer of the run has a recovery"),
    ],
)
def test_goals_that_cannot_be_met(records, goal, sentence):
    if sentence is None:
        assert kept(evidence(records), goal) == ["a", "b"]
        return
    with pytest.raises(InputError, match=sentence):
        choose(evidence(records), goal, "nvfp4")


def test_a_target_that_takes_all_layers_takes_them_although_costs_are_rounded_up():
    """Each cost is rounded up to a whole step, so together they exceed the last one."""
    records = [*whole(), *(one for at in range(5) for one in layer(f"l{at}", 10_007 + at, 0.04))]
    assert kept(evidence(records), Target(0.99)) == [f"l{at}" for at in range(5)]
