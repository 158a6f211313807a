"""How long a sweep will take, from one measured step of each kind of cell."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qprobe.engine.config import TrainConfig
from qprobe.engine.sweep.cell import Cell
from qprobe.errors import InputError

#: Measures one step of a training, in seconds.
TimeStep = Callable[[TrainConfig], float]
#: The most steps that a training takes.
CountSteps = Callable[[TrainConfig], int]

#: Settings that do not change what a step costs.
_FREE = (
    "seed", "fold", "folds", "split_seed", "validation", "test", "epochs", "steps", "lr",
    "weight_decay", "clip", "schedule", "warmup", "patience", "grace", "min_delta",
    "checkpoint_every", "on_nonfinite",
)  # fmt: skip
_PLAIN = TrainConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """Cells whose steps cost the same; ``config`` is one of them."""

    config: TrainConfig
    cells: int
    steps: int
    """Of all its cells together."""
    step_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An upper bound where trainings may stop early; evaluation and start-up are not in it."""

    cells: int
    finished: int
    combinations: tuple[Combination, ...]
    workers: int

    @property
    def wall_s(self) -> float:
        """Seconds with all workers busy: ``Σ steps·step_s / workers``."""
        return sum(one.steps * one.step_s for one in self.combinations) / self.workers


def estimate(
    cells: Sequence[TrainConfig],
    folder: Path,
    *,
    time_step: TimeStep,
    count_steps: CountSteps,
    workers: int = 1,
) -> Estimate:
    """Measure every combination of architecture, size, image, recipe and the like once.

    Nothing is written. Cells that are finished in ``folder`` are counted and not measured.
    """
    if workers < 1:
        raise InputError(f"a sweep needs at least 1 worker, got {workers}.")
    unique = list({cell.hash: cell for cell in cells}.values())
    todo = [one for one in unique if not Cell.of(one, folder.resolve()).is_finished()]
    groups: dict[TrainConfig, list[TrainConfig]] = {}
    for one in todo:
        alike = replace(one.resolved(), **{name: getattr(_PLAIN, name) for name in _FREE})
        groups.setdefault(alike, []).append(one)
    combinations = (
        Combination(
            config=group[0],
            cells=len(group),
            steps=sum(count_steps(one) for one in group),
            step_s=time_step(group[0]),
        )
        for group in groups.values()
    )
    return Estimate(
        cells=len(unique),
        finished=len(unique) - len(todo),
        combinations=tuple(combinations),
        workers=workers,
    )
