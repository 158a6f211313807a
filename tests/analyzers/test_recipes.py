"""Recipes over seeds and folds, against the comparison of the engine and by hand."""

import math
from pathlib import Path

import pytest

from qprobe.analyzers.base import ANALYZERS, Trained, TrainingsAnalyzer
from qprobe.analyzers.recipes import Recipes
from qprobe.engine.compare import compare
from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep import Entry, Standing
from qprobe.records.schema import Severity

BF16 = [0.80, 0.82, 0.79, 0.81, 0.83, 0.80, 0.82]
NVFP4 = [0.78, 0.79, 0.78, 0.77, 0.805, 0.785, 0.80]
EVEN = [0.80, 0.81, 0.80, 0.80, 0.84, 0.79, 0.83]


def trained(recipe, scores, group="cnn", fold=None):
    return [
        Trained(group=group, recipe=recipe, seed=n, fold=fold, metric="auprc", score=one)
        for n, one in enumerate(scores)
    ]


def found(*trainings):
    return Recipes().analyze(list(Recipes().measure_trainings([t for ts in trainings for t in ts])))


def test_it_says_what_the_comparison_of_the_engine_says():
    scores = {"bf16": BF16, "nvfp4": NVFP4, "int8-tensor": EVEN}
    entries = [
        Entry(
            path=Path(f"{recipe}-{seed}"), standing=Standing.FINISHED, reason=None, hash="",
            config=TrainConfig(recipe=recipe, seed=seed).resolved().as_json(),
            scores={"test": {"auprc": score}},
        )
        for recipe, values in scores.items()
        for seed, score in enumerate(values)
    ]  # fmt: skip
    (group,) = compare(entries).groups
    theirs = {row.recipe: row.effect for row in group.rows if row.effect is not None}
    mine = {one.claim.split()[0]: one for one in found(*(trained(*one) for one in scores.items()))}
    assert mine.keys() == theirs.keys() == {"nvfp4", "int8-tensor"}
    for recipe, effect in theirs.items():
        apart = effect.difference
        assert (mine[recipe].effect, mine[recipe].low) == (apart.estimate, apart.low)
        assert (mine[recipe].high, mine[recipe].n) == (apart.high, 7)
        assert f"{effect.verdict} (auprc" in mine[recipe].claim
        assert f"p {effect.p_holm:.3f} after Holm" in mine[recipe].claim


def test_what_is_surely_lost_makes_the_severity():
    even, nvfp4 = sorted(
        found(trained("bf16", BF16), trained("nvfp4", NVFP4), trained("even", EVEN)),
        key=lambda one: one.claim,
    )
    assert nvfp4.severity is Severity.WARN  # surely 1.2 % of bf16
    assert nvfp4.low < nvfp4.effect < nvfp4.high < 0.0
    assert even.severity is Severity.INFO
    assert "no difference found" in even.claim


def test_one_pair_has_no_interval():
    (one,) = found(trained("bf16", [0.8]), trained("nvfp4", [0.5]))
    assert "too few pairs to say" in one.claim
    assert "n = 1, no interval" in one.claim
    assert (one.low, one.high, one.severity) == (-math.inf, math.inf, Severity.INFO)


def test_groups_and_folds_are_kept_apart():
    trainings = [
        *trained("bf16", BF16), *trained("nvfp4", NVFP4, fold=2), *trained("bf16", BF16, "vit"),
        *trained("nvfp4", [s - 0.1 for s in BF16], "vit"),
    ]  # fmt: skip
    (one,) = found(trainings)  # folds without a partner pair with nothing
    assert "nvfp4 against bf16, vit:" in one.claim
    assert one.effect == pytest.approx(-0.1)
    assert one.severity is Severity.CRITICAL


def test_it_is_registered():
    assert isinstance(ANALYZERS.get("recipes"), TrainingsAnalyzer)
    assert Recipes().analyze([]) == []
