"""Paired numbers worked by hand on a few made-up scores."""

import math

import pytest
import quality
from protocol import QUANTIZED


def ended(auprc):
    return {"test": {"auprc": auprc, "loss": 1.0}}


def grid(**models):
    """Scores of two seeds by model and recipe."""
    return {
        "grid": {
            f"{model.replace('_', '-')}-{recipe}-s{seed}": ended(value)
            for model, recipes in models.items()
            for recipe, values in recipes.items()
            for seed, value in enumerate(values)
        }
    }


STORED = grid(
    cnn_tiny={"bf16": [0.8, 0.5], "nvfp4": [0.4, 0.5], "nvfp4-sr": [0.8, 0.45]},
    swin_tiny={"bf16": [0.6, 0.7], "nvfp4": [0.6, 0.7]},
)


def test_ratios_are_of_the_same_seed():
    found = quality.numbers(STORED)
    assert found["grid.cnn-tiny.nvfp4.ratio"].estimate == pytest.approx((0.5 + 1.0) / 2)
    assert found["grid.cnn-tiny.nvfp4.difference"].estimate == pytest.approx(-0.2)
    assert found["grid.cnn-tiny.nvfp4-sr-over-nvfp4"].estimate == pytest.approx((0.5 - 0.1) / 2)
    assert found["grid.swin-over-cnn-tiny.score"].estimate == pytest.approx((-0.2 + 0.2) / 2)
    # t of one degree of freedom: the half width is 12.706 standard errors
    half = 12.7062 * abs(0.5 - 1.0) / 2
    assert found["grid.cnn-tiny.nvfp4.ratio"].high == pytest.approx(0.75 + half, rel=1e-4)


def test_an_interval_of_a_family_is_wider():
    found = quality.numbers(STORED)
    one, family = (found[f"grid.cnn-tiny.nvfp4.{key}"] for key in ("ratio", "ratio-of-family"))
    assert one.estimate == family.estimate
    assert family.low < one.low < one.high < family.high


def test_what_was_not_measured_is_missing():
    found = quality.numbers(STORED)
    assert "grid.vit-tiny.bf16.score" not in found
    assert "grid.swin-over-cnn-tiny.ratio" not in found  # not every recipe of gradients
    assert quality.numbers({}) == {}


def test_a_pair_without_its_baseline_does_not_count():
    stored = grid(cnn_tiny={"bf16": [0.8], "nvfp4": [0.4, 0.5]})
    assert "grid.cnn-tiny.nvfp4.ratio" not in quality.numbers(stored)
    assert quality.ratios(quality.scores(stored, "grid", "cnn-tiny"), "nvfp4") == {"s0": 0.5}


def test_recipes_of_the_longest_name_are_their_own():
    stored = grid(cnn_tiny={"nvfp4-2d-rht": [0.1], "nvfp4-2d-rht-sr": [0.2], "nvfp4": [0.3]})
    assert quality.scores(stored, "grid", "cnn-tiny") == {
        "nvfp4-2d-rht": {"s0": 0.1},
        "nvfp4-2d-rht-sr": {"s0": 0.2},
        "nvfp4": {"s0": 0.3},
    }


def test_architectures_are_compared_over_all_recipes_of_gradients():
    recipes = {"bf16": [1.0, 1.0]} | {name: [0.9, 0.8] for name in quality.OF_GRADIENTS}
    better = {"bf16": [0.5, 0.5]} | {name: [0.5, 0.5] for name in quality.OF_GRADIENTS}
    found = quality.numbers(grid(cnn_tiny=recipes, swin_tiny=better))
    assert found["grid.swin-over-cnn-tiny.ratio"].estimate == pytest.approx((0.1 + 0.2) / 2)


def test_norms_are_compared_with_batch_norm_seed_by_seed():
    stored = grid(cnn_tiny={"bf16": [1.0, 1.0], "nvfp4": [0.9, 0.8]})
    stored["norms"] = {
        f"cnn-tiny-layer-{recipe}-s{seed}": ended(value)
        for recipe, value in (("bf16", 0.5), ("nvfp4", 0.5))
        for seed in range(2)
    }
    found = quality.numbers(stored)
    assert found["norms.cnn-tiny.layer.nvfp4.over-batch"].estimate == pytest.approx(0.15)


def test_holm_is_over_the_recipes_of_one_model():
    scores = {"bf16": [1.0] * 6, "nvfp4": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]}
    scores["nvfp4-sr"] = [1.1, 0.8, 1.2, 0.9, 1.05, 1.0]
    found = quality.tests(grid(cnn_tiny=scores), "grid", "cnn-tiny")
    assert list(found) == [name for name in QUANTIZED if name in scores]
    assert found["nvfp4"] == pytest.approx(2 * 2 * math.pow(2, -6))
