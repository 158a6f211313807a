import math
from pathlib import Path
from typing import Any

import pytest

from qprobe.engine.compare import Comparison, Group, Question, Verdict, compare
from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep import Entry, Standing
from qprobe.errors import InputError


def entry(recipe: str, seed: int, score: float | None, **given: Any) -> Entry:
    standing, reason = given.pop("standing", Standing.FINISHED), given.pop("reason", None)
    config = TrainConfig(recipe=recipe, seed=seed, **given)
    scores = {} if score is None else {"auprc": score, "loss": 1 - score}
    return Entry(
        path=Path(f"runs/{recipe}-{seed}-{config.hash[:6]}/run.qprobe"),
        standing=standing,
        reason=reason,
        hash=config.hash,
        config=config.resolved().as_json(),
        scores={"test": scores, "validation": {name: value / 2 for name, value in scores.items()}},
    )


def runs(recipe: str, scores: list[float], **given: Any) -> list[Entry]:
    return [entry(recipe, seed, score, **given) for seed, score in enumerate(scores)]


BF16 = [0.80, 0.82, 0.79, 0.81, 0.83, 0.80]
NVFP4 = [0.78, 0.79, 0.78, 0.77, 0.805, 0.785]


def only(found: Comparison) -> Group:
    (group,) = found.groups
    return group


def test_recipes_are_paired_by_seed_with_the_baseline_first():
    found = only(compare([*reversed(runs("nvfp4", NVFP4)), *runs("bf16", BF16)]))
    assert found.title == "cnn 500k phantom 64"
    baseline, recipe = found.rows
    assert (baseline.recipe, baseline.effect, baseline.score.n) == ("bf16", None, 6)
    assert baseline.score.estimate == pytest.approx(sum(BF16) / 6)
    assert recipe.effect is not None
    assert recipe.effect.verdict is Verdict.WORSE
    expected = sum(n - b for n, b in zip(NVFP4, BF16, strict=True)) / 6
    assert recipe.effect.difference.estimate == pytest.approx(expected)
    assert found.notes == ()


def test_pairs_do_not_depend_on_the_order_of_the_files():
    # With wrong pairs the differences would have both signs.
    scores = {seed: 0.1 * seed for seed in range(1, 7)}
    bf16 = [entry("bf16", seed, score) for seed, score in scores.items()]
    other = [entry("nvfp4", seed, score - 0.001 * seed) for seed, score in scores.items()]
    earlier = entry("bf16", 0, 0.9)  # without a partner, and before all others
    effect = only(compare([*bf16, *reversed(other), earlier])).rows[1].effect
    assert effect is not None
    assert effect.difference.high is not None
    assert effect.difference.high < 0


def test_folds_are_part_of_the_pair_and_of_the_warning():
    entries = [
        entry(recipe, seed, 0.8 + fold / 100 + seed / 1000 - 0.01 * (recipe == "nvfp4"), fold=fold)
        for recipe in ("bf16", "nvfp4") for seed in (0, 1) for fold in (0, 1, 2)
    ]  # fmt: skip
    found = only(compare(entries))
    effect = found.rows[1].effect
    assert effect is not None
    assert effect.difference.n == 6
    assert effect.difference.estimate == pytest.approx(-0.01)
    assert any("folds share most of their training patients" in note for note in found.notes)


def test_whatever_else_differs_makes_another_group_and_is_in_its_title():
    entries = runs("bf16", BF16) + runs("bf16", BF16, lr=0.1) + runs("bf16", BF16, arch="swin")
    titles = [group.title for group in compare(entries).groups]
    assert titles == [
        "cnn 500k phantom 64, lr 0.0005",
        "cnn 500k phantom 64, lr 0.1",
        "swin 500k phantom 64",
    ]


def test_how_often_it_saved_does_not_part_runs():
    entries = runs("bf16", BF16, checkpoint_every=10) + runs("nvfp4", NVFP4, checkpoint_every=20)
    effect = only(compare(entries)).rows[1].effect
    assert effect is not None
    assert effect.difference.n == 6


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        (
            {"standing": Standing.INTERRUPTED, "reason": "its process ended"},
            "nvfp4, seed 6 is not compared: interrupted: its process ended.",
        ),
        ({"standing": Standing.PLANNED}, "nvfp4, seed 6 is not compared: planned."),
        (
            {"standing": Standing.FAILED, "reason": "the loss is nan"},
            "nvfp4, seed 6 is not compared: failed: the loss is nan.",
        ),
        ({"score": math.nan}, "nvfp4, seed 6 is not compared: its auprc is nan."),
        ({"score": math.inf}, "nvfp4, seed 6 is not compared: its auprc is inf."),
        ({"score": None}, "nvfp4, seed 6 is not compared: its run has no auprc on test data."),
    ],
)
def test_what_cannot_be_used_is_named_and_only_once(missing: dict[str, Any], note: str):
    left_out = entry("nvfp4", 6, **({"score": 0.8} | missing))
    entries = [*runs("bf16", [*BF16, 0.8]), *runs("nvfp4", NVFP4), left_out]
    found = only(compare(entries))
    assert found.notes == (note,)
    assert [row.score.n for row in found.rows] == [7, 6]
    assert found.rows[1].effect is not None
    assert found.rows[1].effect.difference.n == 6


def test_runs_without_a_partner_are_named_on_both_sides():
    entries = [*runs("bf16", BF16), *runs("nvfp4", NVFP4[:5]), entry("nvfp4", 9, 0.7)]
    found = only(compare(entries))
    assert found.notes == (
        "nvfp4, seed 9 has no bf16 run of the same seed and fold: it counts in the mean and in no "
        "pair.",
        "nvfp4, seed 5 was never run; the baseline was.",
    )
    row = found.rows[1]
    assert row.effect is not None
    assert (row.score.n, row.effect.difference.n) == (6, 5)


def test_a_cell_that_is_there_twice_counts_once():
    twice = entry("nvfp4", 0, 0.1, checkpoint_every=7)
    found = only(compare([*runs("bf16", BF16), *runs("nvfp4", NVFP4), twice]))
    (note,) = found.notes
    assert "is the same cell as" in note
    assert found.rows[1].score.n == 6


def test_without_a_baseline_nothing_is_compared_and_that_is_said():
    found = only(compare(runs("nvfp4", NVFP4)))
    assert [row.effect for row in found.rows] == [None]
    assert "there is no finished bf16 run in this group" in found.notes[0]
    assert found.notes[0].endswith("or choose another baseline: nvfp4.")
    other = only(compare(runs("nvfp4", NVFP4), Question(baseline="nvfp4")))
    assert other.notes == ()


def test_a_lower_loss_is_better_and_splits_are_kept_apart():
    entries = runs("bf16", BF16) + runs("nvfp4", NVFP4)
    effect = only(compare(entries, Question(metric="loss"))).rows[1].effect
    assert effect is not None
    assert effect.verdict is Verdict.WORSE
    assert effect.difference.estimate > 0
    validation = only(compare(entries, Question(split="validation"))).rows[0]
    assert validation.score.estimate == pytest.approx(sum(BF16) / 12)


def test_unreadable_files_are_named():
    broken = Entry(
        path=Path("broken.qprobe"), standing=Standing.UNREADABLE, reason="not a run", hash=None,
        config={}, scores={},
    )  # fmt: skip
    assert compare([broken, *runs("bf16", BF16)]).notes == ("broken.qprobe: not a run",)
    with pytest.raises(InputError, match=r"no training to compare.* broken.qprobe: not a run"):
        compare([broken])


@pytest.mark.parametrize(
    ("entries", "question", "message"),
    [
        ([], Question(), "there is no training to compare; name folders"),
        (runs("bf16", BF16), Question(metric="dice"), "'dice' on test data; they have auprc, loss"),
        (
            [entry("bf16", 0, None, standing=Standing.PLANNED)],
            Question(),
            r"none of the 1 trainings is finished \(planned\); go on with `qprobe train --resume",
        ),
    ],
)
def test_nothing_to_compare_is_refused(entries, question, message):
    with pytest.raises(InputError, match=message):
        compare(entries, question)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"split": "train"}, "split is 'test' or 'validation', got 'train'"),
        ({"level": 1.0}, "from 0.5 to below 1"),
        ({"level": 0.05}, r"from 0.5 to below 1 \(such as 0.95\), got 0.05"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        Question(**given)
