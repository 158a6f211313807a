from dataclasses import replace

import numpy as np
import pytest
import synthetic_runs

from qprobe.dashboard.library import Library
from qprobe.dashboard.quality import Question, Rests, quality, repeats
from qprobe.inference import average_precision_of_histograms
from qprobe.records import Metric, resume


def test_seeds_are_paired_and_the_worst_recipe_comes_after_the_baseline(library):
    (group,) = quality(library, library.runs(), Question())
    assert [row.recipe for row in group.rows] == ["bf16", "int4-tensor", "nvfp4"]
    worst = group.rows[1].change
    by_seed = {
        recipe: [library.run(f"vit-{recipe}-s{seed}").scores["test"]["auprc"] for seed in range(3)]
        for recipe in ("bf16", "int4-tensor")
    }
    apart = np.subtract(by_seed["int4-tensor"], by_seed["bf16"])
    assert worst.difference.estimate == pytest.approx(apart.mean())
    assert worst.rests is Rests.RUNS
    assert (worst.difference.n, worst.over, group.rows[0].over) == (3, "3 seeds", "3 seeds")
    assert worst.difference.high < 0


def test_one_pair_rests_on_patients(sweep):
    paths = [sweep / f"vit-{recipe}-s0" / "run.qprobe" for recipe in ("bf16", "int4-tensor")]
    library = Library(paths)
    (group,) = quality(library, library.runs(), Question())
    change = group.rows[1].change
    assert change.rests is Rests.PATIENTS
    assert change.difference.n == len(synthetic_runs.PATIENTS)
    assert change.over == f"{len(synthetic_runs.PATIENTS)} patients"
    assert change.difference.low < change.difference.estimate < change.difference.high < 0


def test_a_score_without_parts_has_no_interval(sweep):
    paths = [sweep / f"vit-{recipe}-s0" / "run.qprobe" for recipe in ("bf16", "int4-tensor")]
    library = Library(paths)
    (group,) = quality(library, library.runs(), Question(score="dice"))
    assert group.rows[1].change.rests is Rests.NOTHING
    assert group.rows[1].change.difference.low is None


def test_less_loss_is_better(library):
    (group,) = quality(library, library.runs(), Question(score="loss"))
    assert [row.recipe for row in group.rows] == ["bf16", "int4-tensor", "nvfp4"]
    assert group.rows[1].change.difference.low > 0


def test_a_score_that_is_no_number_is_not_compared(tmp_path):
    path = synthetic_runs.training(tmp_path / "a.qprobe", full=False)
    with resume(path) as writer:
        writer.metrics([Metric(step=101, split="test", name="auprc", value=float("nan"))])
    library = Library([tmp_path])
    assert quality(library, library.runs(), Question()) == []


def test_other_settings_are_another_group(tmp_path):
    for number, lr in enumerate((1e-3, 1e-4)):
        synthetic_runs.training(tmp_path / f"{number}.qprobe", full=False, lr=lr)
    library = Library([tmp_path])
    titles = [group.title for group in quality(library, library.runs(), Question())]
    assert titles == ["vit tiny phantom 64, lr 0.001", "vit tiny phantom 64, lr 0.0001"]


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ([(0, 0)], "1 run"),
        ([(None, 0), (None, 1)], "2 seeds"),
        ([(0, 7), (1, 7), (2, 7)], "3 folds"),
        ([(fold, seed) for fold in range(3) for seed in range(2)], "3 folds × 2 seeds"),
        ([(0, 0), (0, 1), (1, 0)], "3 runs of 2 folds and 2 seeds"),
    ],
)
def test_what_an_interval_rests_on_is_said_as_it_is(library, cells, told):
    run = library.runs()[0]
    runs = [replace(run, config={"fold": fold, "seed": seed}) for fold, seed in cells]
    assert repeats(runs) == told


def test_histograms_are_those_of_the_pooled_score(library):
    from qprobe.dashboard.quality import histograms

    found = library.answer(library.run("vit-bf16-s0"), histograms)
    assert found.counts.shape == (24, 2, 1024)
    assert found.patients[:4] == ("p0000", "p0000", "p0000", "p0001")
    assert 0.5 < average_precision_of_histograms(found.counts.sum(0)) < 1
