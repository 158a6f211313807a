"""Groups runs by everything but recipe, seed and fold; pairs them; names what is left out."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qprobe.engine.sweep.index import Entry, Standing
from qprobe.errors import InputError
from qprobe.inference.against_baseline import Effect, Key, Mean, by_fold, by_key, mean
from qprobe.records import settings
from qprobe.records.schema import Json

LOWER_IS_BETTER = frozenset({"loss"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which score to compare, of which data, against which recipe."""

    metric: str = "auprc"
    split: str = "test"
    baseline: str = "bf16"
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.split not in ("test", "validation"):
            raise InputError(f"split is 'test' or 'validation', got {self.split!r}.")
        if not 0.5 <= self.level < 1:
            raise InputError(f"the level is from 0.5 to below 1 (such as 0.95), got {self.level}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One recipe: its scores by themselves, and against the baseline (None for the baseline)."""

    recipe: str
    score: Mean
    effect: Effect | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Runs that differ in recipe, seed and fold only; ``notes`` names what could not be used."""

    title: str
    settings: Mapping[str, Json]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The answer to a :class:`Question`; ``notes`` names what belongs to no group."""

    question: Question
    groups: tuple[Group, ...]
    notes: tuple[str, ...]


def compare(entries: Sequence[Entry], question: Question | None = None) -> Comparison:
    """Compare the recipes of every group of trainings with the baseline.

    Pairs have the same seed and the same fold. A run that is unfinished, has no such score or a
    score that is no finite number, and a run without a partner are each named in the notes.
    """
    asked = question or Question()
    readable = [one for one in entries if one.standing is not Standing.UNREADABLE]
    notes = [f"{one.path}: {one.reason}" for one in entries if one.standing is Standing.UNREADABLE]
    if not readable:
        raise InputError(
            "there is no training to compare; name folders that `qprobe sweep` or `qprobe train` "
            f"wrote.{' ' + notes[0] if notes else ''}"
        )
    _check_metric(readable, asked)
    gathered: dict[str, list[Entry]] = {}
    for one in readable:
        gathered.setdefault(json.dumps(settings.shared(one.config), sort_keys=True), []).append(one)
    every = [settings.shared(members[0].config) for members in gathered.values()]
    groups = tuple(
        _group(members, common, settings.title(common, every), asked)
        for members, common in zip(gathered.values(), every, strict=True)
    )
    return Comparison(question=asked, groups=groups, notes=tuple(notes))


def _check_metric(entries: Sequence[Entry], asked: Question) -> None:
    finished = [one for one in entries if one.standing is Standing.FINISHED]
    known = sorted({name for one in finished for name in one.scores[asked.split]})
    if not finished:
        states = ", ".join(sorted({str(one.standing) for one in entries}))
        raise InputError(
            f"none of the {len(entries)} trainings is finished ({states}); go on with "
            "`qprobe train --resume FOLDER`, or run the sweep that they are of again."
        )
    if asked.metric not in known:
        raise InputError(
            f"no finished training has {asked.metric!r} on {asked.split} data; they have "
            f"{', '.join(known) or 'no scores at all'}."
        )


@dataclass
class _Gathering:
    """The usable scores of a group, by recipe and key, and why others are not."""

    asked: Question
    scores: dict[str, dict[Key, float]] = field(default_factory=dict)
    explained: set[tuple[str, Key]] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    paths: dict[tuple[str, Key], Entry] = field(default_factory=dict)

    def add(self, one: Entry) -> None:
        recipe, key = str(one.config.get("recipe")), _key(one)
        values = one.scores[self.asked.split]
        if one.standing is not Standing.FINISHED:
            why = f"{one.standing}{': ' + one.reason if one.reason else ''}"
        elif self.asked.metric not in values:
            why = f"its run has no {self.asked.metric} on {self.asked.split} data"
        elif not math.isfinite(values[self.asked.metric]):
            why = f"its {self.asked.metric} is {values[self.asked.metric]}"
        elif (recipe, key) in self.paths:
            why = f"{one.path} is the same cell as {self.paths[recipe, key].path}, which counts"
        else:
            self.scores.setdefault(recipe, {})[key] = values[self.asked.metric]
            self.paths[recipe, key] = one
            return
        self.explained.add((recipe, key))
        self.notes.append(f"{_name(recipe, key)} is not compared: {why}.")

    def note_unpaired(self, baseline: Mapping[Key, float]) -> None:
        for recipe, found in self.scores.items():
            if recipe == self.asked.baseline:
                continue
            for key in sorted(found.keys() - baseline.keys(), key=by_fold):
                self.notes.append(
                    f"{_name(recipe, key)} has no {self.asked.baseline} run of the same seed and "
                    "fold: it counts in the mean and in no pair."
                )
            for key in sorted(baseline.keys() - found.keys(), key=by_fold):
                if (recipe, key) not in self.explained:
                    self.notes.append(f"{_name(recipe, key)} was never run; the baseline was.")


def _group(
    members: Sequence[Entry], common: Mapping[str, Json], title: str, asked: Question
) -> Group:
    gathering = _Gathering(asked)
    for one in sorted(members, key=lambda one: (str(one.config.get("recipe")), by_fold(_key(one)))):
        gathering.add(one)
    baseline = gathering.scores.get(asked.baseline)
    if baseline is not None:
        gathering.note_unpaired(baseline)
    elif gathering.scores:
        gathering.notes.append(
            f"there is no finished {asked.baseline} run in this group, so nothing is compared with "
            f"it; train one, or choose another baseline: {', '.join(gathering.scores)}."
        )
    if len({key[1] for found in gathering.scores.values() for key in found}) > 1:
        gathering.notes.append(
            "folds share most of their training patients, so their pairs are not independent: "
            "intervals are somewhat too narrow and p somewhat too small."
        )
    return Group(
        title=title,
        settings=common,
        rows=_rows(gathering.scores, asked),
        notes=tuple(gathering.notes),
    )


def _rows(scores: Mapping[str, Mapping[Key, float]], asked: Question) -> tuple[Row, ...]:
    """The baseline first, the others by name."""
    order = sorted(scores, key=lambda recipe: (recipe != asked.baseline, recipe))
    by_recipe = by_key(
        scores,
        asked.baseline,
        level=asked.level,
        higher_is_better=asked.metric not in LOWER_IS_BETTER,
    )
    return tuple(
        Row(
            recipe=recipe,
            score=mean(list(scores[recipe].values()), asked.level),
            effect=by_recipe.get(recipe),
        )
        for recipe in order
    )


def _key(one: Entry) -> Key:
    seed, fold = one.config.get("seed"), one.config.get("fold")
    if not isinstance(seed, int) or not isinstance(fold, int | None):
        raise InputError(f"{one.path} has seed {seed!r} and fold {fold!r}; it was made otherwise.")
    return seed, fold


def _name(recipe: str, key: Key) -> str:
    return f"{recipe}, seed {key[0]}{'' if key[1] is None else f', fold {key[1]}'}"
