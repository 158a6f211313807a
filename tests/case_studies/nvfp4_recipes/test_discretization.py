import math

import pytest
from discretization import numbers, tables
from protocol import RECIPES

PATHS = ("projection", "products", "products rotated")


def look(snr_db=20.0, nats=0.1, distinct=90.0, auprc=0.7):
    local = {
        "snr_db": snr_db,
        "error_nats": nats,
        "total_variation": 0.02,
        "entropy_change_nats": -0.01,
        "levels_ratio": 0.9,
    }
    predictions = {
        "levels_ratio": 0.95,
        "distinct": distinct,
        "distinct_reference": 100.0,
        "largest_step": 0.03,
        "largest_step_reference": 0.02,
        "auprc": auprc,
        "auprc_reference": 0.71,
    }
    return {**{path: dict(local) for path in PATHS}, "predictions": predictions}


def cell(head_dim, recipe, seed, **changes):
    found = {"head_dim": head_dim, "recipe": recipe, "seed": seed, "trained": look(**changes)}
    if recipe == "bf16":
        found["post_hoc"] = {name: look(**changes) for name in RECIPES}
        found["post_hoc"]["nvfp4-fwd-rht"] = look(snr_db=21.5)
    return found


def stored():
    # An SNR proportional to the head dimension, give or take half a decibel a seed.
    cells = {
        f"hd{dim}-bf16-s{seed}": cell(dim, "bf16", seed, snr_db=10 * math.log10(dim) + 0.5 * seed)
        for dim in (8, 16, 32)
        for seed in range(3)
    }
    cells |= {f"hd16-nvfp4-s{seed}": cell(16, "nvfp4", seed, nats=seed) for seed in range(3)}
    stress = [
        {"kind": "logit-growth", "strength": 4.0, "recipe": "nvfp4", **look(nats=0.4)},
        {"kind": "key-offset", "strength": 8.0, "recipe": "nvfp4-attention", **look()},
    ]
    stress[1]["products"]["error_nats"] = 2.0
    for seed in range(3):
        cells[f"hd16-bf16-s{seed}"]["stress"] = stress
    return {"attention": {**cells, "train-hd8-bf16-s0": {"test": {}}}}


def test_a_proportional_snr_rises_three_decibels_per_doubling():
    found = numbers(stored())
    for path in ("projection", "products", "products-rotated"):
        number = found[f"attention.slope.{path}.bf16.snr_db"]
        assert number.n == 3
    assert number.estimate == pytest.approx(3.0103, abs=1e-3)


def test_seeds_without_all_head_dimensions_do_not_count():
    few = stored()
    del few["attention"]["hd8-bf16-s2"]
    assert numbers(few)["attention.slope.products.bf16.snr_db"].n == 2


def test_natural_numbers_are_means_over_seeds_at_head_dimension_16():
    found = numbers(stored())
    trained = found["attention.trained.nvfp4.error_nats"]
    assert (trained.estimate, trained.n) == (1.0, 3)
    assert found["attention.trained.nvfp4.distinct_ratio"].estimate == pytest.approx(0.9)
    assert found["attention.trained.nvfp4.largest_step_change"].estimate == pytest.approx(0.01)
    assert found["attention.post-hoc.nvfp4-chain.auprc_change"].estimate == pytest.approx(-0.01)
    gained = found["attention.post-hoc.rotation-over-nvfp4.snr_db"]
    expected = sum(21.5 - (12.0412 + 0.5 * seed) for seed in range(3)) / 3
    assert gained.estimate == pytest.approx(expected, abs=1e-3)
    assert "attention.trained.nvfp4-sr.snr_db" not in found  # was not measured


def test_a_stress_test_is_read_where_its_defect_shows():
    found = numbers(stored())
    assert found["attention.stress.logit-growth-4.nvfp4.error_nats"].estimate == pytest.approx(0.4)
    assert found[
        "attention.stress.key-offset-8.nvfp4-attention.error_nats"
    ].estimate == pytest.approx(2.0)


def test_tables_have_a_cell_for_every_column_and_nothing_where_nothing_was_measured():
    for one in tables(stored()):
        assert {len(row) for row in one.rows} == {len(one.columns)}
    assert numbers({}) == {}
    assert all("–" in row for row in tables({})[0].rows)
