"""Rankings whose correlation is known without computing it."""

import foresight
import numpy as np
import pytest
from protocol import QUANTIZED
from scipy.stats import spearmanr


def stored(seeds=3, turn=1.0, without=None):
    """Recipes that end the worse the later they come, and were seen so, or the other way."""
    grid, early = {}, {}
    for seed in range(seeds):
        for place, recipe in enumerate(("bf16", *QUANTIZED)):
            key = f"cnn-tiny-{recipe}-s{seed}"
            grid[key] = {"test": {"auprc": 0.5, "loss": 1.0 + place + 0.1 * seed}}
            early[key] = {"loss": 2.0 + turn * place + 0.2 * seed}
            if recipe != "bf16":
                early[key]["output_noise"] = {"median": 0.1 * place, "worst": 1.0, "layers": 2}
                if recipe != without:
                    early[key]["dw_cosine"] = {"median": 1.0 - turn * 0.01 * place}
    return {"grid": grid, "early": early}


@pytest.mark.parametrize("turn", [1.0, -1.0])
def test_a_ranking_that_repeats_or_reverses(turn):
    found = foresight.numbers(stored(turn=turn))
    assert found["early.cnn-tiny.loss"].estimate == turn
    assert found["early.cnn-tiny.dw_error"].estimate == turn
    assert found["early.cnn-tiny.output_noise"].estimate == 1.0
    assert found["early.cnn-tiny.loss"].n == 3


def test_a_gradient_in_high_precision_has_no_error():
    rows = foresight.rankings(stored(without="nvfp4-fwd"), "cnn-tiny", "dw_error")
    assert rows[0, 0, QUANTIZED.index("nvfp4-fwd")] == 0.0
    assert rows[0, 0, 0] == pytest.approx(0.01)


def test_losses_count_from_bf16_of_the_same_seed():
    rows = foresight.rankings(stored(), "cnn-tiny", "loss")
    assert rows.shape == (3, 2, 7)
    assert rows[2] == pytest.approx(np.array([range(1, 8), range(1, 8)]))


def test_without_seeds_or_what_was_seen_there_is_no_number():
    assert "early.cnn-tiny.loss" not in foresight.numbers(stored(seeds=2))
    assert "early.cnn-tiny.logit_error_nats" not in foresight.numbers(stored())
    assert foresight.numbers({}) == {}


def test_spearman_is_that_of_scipy():
    draws = np.random.default_rng(0).integers(0, 5, size=(50, 2, 7)).astype(float)
    draws = draws[[len(set(x)) > 1 and len(set(y)) > 1 for x, y in draws]]
    expected = [spearmanr(x, y).statistic for x, y in draws]
    assert foresight.spearman(draws) == pytest.approx(expected)
