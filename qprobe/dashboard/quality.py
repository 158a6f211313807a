"""How good each recipe is against the baseline, with what its interval rests on."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from qprobe.dashboard.library import Library, Run
from qprobe.errors import InputError
from qprobe.inference import Resampling, average_precision_of_histograms, paired_bootstrap
from qprobe.inference.against_baseline import Effect, Mean, Pairs, effects, mean
from qprobe.records import RunReader, Status, settings

LEVEL = 0.95
#: Scores of which less is better.
LOWER_IS_BETTER = frozenset({"loss"})
#: What a patient bootstrap can be made of: the one score whose parts every run keeps per sample.
_RESAMPLED = "auprc"


#: A run and its partner under the baseline recipe: same seed, same fold.
Pair = tuple[Run, Run]


class Rests(StrEnum):
    """What an interval is over."""

    RUNS = "runs"
    PATIENTS = "patients"
    NOTHING = "one run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which score of which data, against which recipe."""

    score: str = "auprc"
    split: str = "test"
    base: str = "bf16"

    def of(self, run: Run) -> float:
        """The run's score; NaN where it has none."""
        return run.scores[self.split].get(self.score, math.nan)

    @property
    def higher_is_better(self) -> bool:
        return self.score not in LOWER_IS_BETTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Recipe − baseline, what its interval is over, and the test over pairs of runs."""

    difference: Mean
    rests: Rests
    effect: Effect
    #: What the interval is over, in words.
    over: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """One recipe in one group; ``change`` is None for the baseline and where it has no partner."""

    recipe: str
    score: Mean
    change: Change | None
    runs: tuple[str, ...]
    #: What these runs differ in.
    over: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Runs that differ in recipe, seed and fold only; the baseline comes first, then the worst."""

    title: str
    rows: tuple[Quality, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Histograms:
    """Logit histograms ``[samples, 2, bins]`` of the test set and the patient of each sample."""

    counts: NDArray[np.int64]
    patients: tuple[str, ...] | None


def quality(library: Library, runs: Sequence[Run], asked: Question) -> list[Group]:
    """Every group with a finished run that has this score."""
    gathered: dict[str, list[Run]] = {}
    for run in runs:
        if run.is_training and run.status is Status.FINISHED and math.isfinite(asked.of(run)):
            alike = json.dumps(settings.shared(run.config), sort_keys=True)
            gathered.setdefault(alike, []).append(run)
    every = [settings.shared(members[0].config) for members in gathered.values()]
    return [
        Group(title=settings.title(common, every), rows=_rows(library, members, asked))
        for members, common in zip(gathered.values(), every, strict=True)
    ]


def histograms(reader: RunReader) -> Histograms | None:
    """The last test's logit histograms, in the order of the set; None where there are none."""
    found = [
        array
        for array in reader.arrays(probe="predictions", key="histograms.test.*")
        if array.data.ndim == 3
    ]
    if not found:
        return None
    last = max(array.step for array in found)
    parts = sorted(
        (array for array in found if array.step == last), key=lambda one: _first_row(one.key)
    )
    counts = np.concatenate([array.data for array in parts]).astype(np.int64)
    return Histograms(counts=counts, patients=_patients(reader, last, len(counts)))


def _first_row(key: str) -> tuple[str, int]:
    name, _, row = key.rpartition(".")
    return name, int(row) if row.isdigit() else 0


def _patients(reader: RunReader, step: int, count: int) -> tuple[str, ...] | None:
    """The patient of every sample in the set's order, where one score was given to all of them."""
    by_name: dict[str, list[str]] = {}
    for sample in reader.samples(split="test", steps=range(step, step + 1)):
        by_name.setdefault(sample.name, []).append(sample.patient or sample.sample)
    complete = [patients for patients in by_name.values() if len(patients) == count]
    return tuple(complete[0]) if complete else None


def _rows(library: Library, members: Sequence[Run], asked: Question) -> tuple[Quality, ...]:
    by_recipe: dict[str, dict[str, Run]] = {}
    for run in members:
        cell = json.dumps([run.config.get("seed"), run.config.get("fold")])
        by_recipe.setdefault(run.recipe or "no recipe", {}).setdefault(cell, run)
    against = by_recipe.get(asked.base, {})
    pairs = {
        recipe: [(cells[cell], against[cell]) for cell in cells if cell in against]
        for recipe, cells in by_recipe.items()
        if recipe != asked.base
    }
    pairs = {recipe: both for recipe, both in pairs.items() if both}
    found = dict(zip(pairs, _effects(list(pairs.values()), asked), strict=True))
    rows = [
        Quality(
            recipe=recipe,
            score=mean([asked.of(run) for run in cells.values()], LEVEL),
            change=_change(library, pairs[recipe], found[recipe], asked)
            if recipe in found
            else None,
            runs=tuple(run.name for run in cells.values()),
            over=repeats(list(cells.values())),
        )
        for recipe, cells in by_recipe.items()
    ]
    return tuple(sorted(rows, key=lambda row: _order(row, asked)))


def _effects(family: Sequence[Sequence[Pair]], asked: Question) -> list[Effect]:
    scores = [
        Pairs(
            recipe=[asked.of(one) for one, _ in both],
            baseline=[asked.of(other) for _, other in both],
        )
        for both in family
    ]
    return effects(scores, level=LEVEL, higher_is_better=asked.higher_is_better) if scores else []


def _change(library: Library, both: Sequence[Pair], effect: Effect, asked: Question) -> Change:
    found, rests, over = effect.difference, Rests.RUNS, repeats([run for run, _ in both])
    if found.n == 1:
        rests, over = Rests.NOTHING, "one pair, no interval"
        if (asked.score, asked.split) == (_RESAMPLED, "test"):
            resampled = _over_patients(library, *both[0])
            if resampled is not None:
                found, rests, over = resampled, Rests.PATIENTS, f"{resampled.n} patients"
    return Change(difference=found, rests=rests, effect=effect, over=over)


def repeats(runs: Sequence[Run]) -> str:
    """How often one setting was run, and what differs: ``3 folds × 2 seeds``.

    Where not every fold has every seed it says how many runs there are.
    """
    counts = {name: len({run.config.get(name) for run in runs}) for name in ("fold", "seed")}
    several = [f"{count} {name}s" for name, count in counts.items() if count > 1]
    if math.prod(counts.values()) == len(runs):
        return " × ".join(several) or "1 run"
    return f"{len(runs)} runs of {' and '.join(several)}" if several else f"{len(runs)} runs"


def _order(row: Quality, asked: Question) -> tuple[bool, float]:
    change = 0.0 if row.change is None else row.change.difference.estimate
    return row.recipe != asked.base, change if asked.higher_is_better else -change


def _over_patients(library: Library, run: Run, baseline: Run) -> Mean | None:
    """One pair of runs: the interval over the patients of the test set, drawn together."""
    ours = library.answer(run, histograms)
    theirs = library.answer(baseline, histograms)
    if ours is None or theirs is None or ours.counts.shape != theirs.counts.shape:
        return None
    patients = ours.patients
    if patients is None or patients != theirs.patients or len(set(patients)) < 2:
        return None

    def drawn() -> Mean | None:
        resampling = Resampling(generator=np.random.default_rng(0))
        try:
            found = paired_bootstrap(
                ours.counts, theirs.counts, average_precision_of_histograms, resampling, patients
            )
        except InputError:
            return None  # too few patients with foreground to draw from: there is no interval
        return Mean(estimate=found.estimate, low=found.low, high=found.high, n=found.n)

    return library.remembered(
        ("patients", run.path, run.stamp, baseline.path, baseline.stamp), drawn
    )
