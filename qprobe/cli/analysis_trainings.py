"""A folder of trainings, as the analyzer of recipes takes it."""

import math
from pathlib import Path

from qprobe import checkpoints
from qprobe.analyzers.base import Trained
from qprobe.engine.compare import Question
from qprobe.engine.sweep import RUN_FILE, Standing, index
from qprobe.errors import InputError
from qprobe.records import settings


def holds_trainings(path: Path) -> bool:
    """Whether ``path`` is a folder of trainings rather than one of them, or of weights."""
    if not path.is_dir() or checkpoints.in_folder(path) is not None:
        return False
    return next(path.rglob(RUN_FILE), None) is not None


def trainings_of(folder: Path) -> tuple[list[Trained], tuple[str, ...]]:
    """Scores of the finished trainings below ``folder``, and what is not among them."""
    asked = Question()
    entries = index(folder)
    every = [settings.shared(one.config) for one in entries]
    found: list[Trained] = []
    for one, common in zip(entries, every, strict=True):
        score = one.scores.get(asked.split, {}).get(asked.metric, math.nan)
        seed, fold = one.config.get("seed"), one.config.get("fold")
        if one.standing is not Standing.FINISHED or not math.isfinite(score):
            continue
        if isinstance(seed, int) and isinstance(fold, int | None):
            found.append(
                Trained(
                    group=settings.title(common, every), recipe=str(one.config.get("recipe")),
                    seed=seed, fold=fold, metric=asked.metric, score=score,
                )
            )  # fmt: skip
    _check(folder, found, asked)
    missing = len(entries) - len(found)
    if not missing:
        return found, ()
    note = (
        f"{missing} of {len(entries)} trainings have no {asked.metric} yet; qprobe compare says why"
    )
    return found, (note,)


def _check(folder: Path, found: list[Trained], asked: Question) -> None:
    recipes = {one.recipe for one in found}
    if asked.baseline not in recipes or len(recipes) < 2:
        known = ", ".join(sorted(recipes)) or "none"
        raise InputError(
            f"{folder} holds finished trainings under {known}; a comparison takes {asked.baseline} "
            "and another recipe, or name the best.pt of one training to analyze it alone."
        )
