from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
PIECES, APART_S = 6000, 0.012


@pytest.fixture
def beside(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import beside

    return beside


def watched(beside, costs, *, seed=0, rests=True):
    """Pieces of 20 kinds on a machine whose speed drifts; company costs a part of what it touches.

    Returns them, and by how much company really made them slower.
    """
    random = np.random.default_rng(seed)
    speed = np.exp(np.cumsum(0.01 * random.standard_normal(PIECES)))
    kind = np.arange(PIECES) % 20
    own = 1e-3 * (1 + kind) * speed * random.lognormal(sigma=0.3, size=PIECES)
    busy = (random.random(PIECES) < 0.05) if rests else np.ones(PIECES, dtype=bool)
    touched = busy | np.roll(busy, 1)
    more = np.where(touched, costs * own, 0.0)
    pieces = beside.Pieces(
        at_s=APART_S * np.arange(PIECES),
        taken_s=own + more,
        company_s=np.where(busy, 2e-3, 1e-6),
        kind=kind,
    )
    return pieces, more.sum() / own.sum()


@pytest.mark.parametrize("costs", [0.0, 0.2, 1.0])
def test_it_finds_what_company_costs_where_the_machine_changes_by_more(beside, costs):
    pieces, truth = watched(beside, costs)
    found = beside.slower(pieces)
    halves = [half.mean() for half in np.split(pieces.taken_s, 2)]
    assert abs(halves[0] / halves[1] - 1) > 0.05  # in turns it would be lost
    assert found.low <= truth <= found.high
    assert found.share == pytest.approx(truth, abs=0.01)
    assert found.high - found.low < 0.04


def test_its_interval_holds_the_truth_as_often_as_it_says(beside):
    held = 0
    for seed in range(20):
        pieces, truth = watched(beside, 0.3, seed=seed)
        found = beside.slower(pieces)
        held += found.low <= truth <= found.high
    assert held >= 17  # of 20: with 95 % fewer are as rare as 1 in 60


def test_company_that_never_rests_cannot_be_told_apart(beside):
    with pytest.raises(ValueError, match="never rested beside a piece of kind 0"):
        beside.slower(watched(beside, 0.3, rests=False)[0])


def test_a_glance_at_the_clock_holds_nobody_up(beside):
    pieces, _ = watched(beside, 0.0)
    assert 0.08 < beside.held_up(pieces).mean() < 0.12
