"""``qprobe sweep``: many trainings, each once, by workers that may die."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qprobe.cli.probing import Budget, EverySteps, Probes, Probing
from qprobe.cli.settings import from_file, from_pairs
from qprobe.errors import InputError

if TYPE_CHECKING:
    from qprobe.engine import TrainConfig
    from qprobe.engine.sweep import Backend, Estimate, SweepResult

_SETTING = "A setting of every training, name=value; repeat it for several."
_EACH = "Repeat it for several."
_RAY = "Run on this Ray cluster, or on one of this machine with 'local'."


def sweep(  # noqa: PLR0913  (a list for each thing that is usually varied)
    config: Annotated[
        Path | None, typer.Option(help="TOML file: settings, and lists in its table [sweep].")
    ] = None,
    arch: Annotated[list[str] | None, typer.Option(help=f"An architecture. {_EACH}")] = None,
    size: Annotated[list[str] | None, typer.Option(help=f"A size. {_EACH}")] = None,
    recipe: Annotated[list[str] | None, typer.Option(help=f"A recipe. {_EACH}")] = None,
    seed: Annotated[list[int] | None, typer.Option(help=f"A seed. {_EACH}")] = None,
    fold: Annotated[list[int] | None, typer.Option(help=f"A fold. {_EACH}")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help=_SETTING)] = None,
    probes: Probes = None,
    every: EverySteps = None,
    budget: Budget = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs.")] = Path("runs"),
    workers: Annotated[int, typer.Option(min=1, help="Trainings at once, a thread each.")] = 2,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS|local", help=_RAY)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count cells, time a step of each kind, and stop.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Train every combination, each once.

    Run it again to go on: what is finished is never run twice.
    """
    from qprobe.engine import sweep as sweeps

    axes = {"arch": arch, "size": size, "recipe": recipe, "seed": seed, "fold": fold}
    given = {name: values for name, values in axes.items() if values}
    cells = cells_of(from_file(config), given, from_pairs(set_), source=str(config))
    _check_names(cells)
    probing = Probing.of(probes, every, budget)
    run_cell = partial(train_cell, probing=probing)
    if dry_run:
        return _show_estimate(_estimate(cells, out, workers, probing), as_json=as_json)
    from qprobe.cli.sweep_progress import progress

    with progress(cells, out, workers, quiet=quiet or as_json) as watch:
        result = sweeps.sweep(cells, run_cell, out, backend=_backend(ray, workers), watch=watch)
    entries = sweeps.index(out)
    if as_json:
        print(json.dumps(as_plain(result), indent=2))
    elif not quiet:
        print(f"{summary(result)} {len(entries)} trainings in {out}; compare: qprobe compare {out}")
    return exit_code(result)


def cells_of(
    filed: Mapping[str, Any],
    axes: Mapping[str, Sequence[Any]],
    settings: Mapping[str, Any],
    *,
    source: str,
) -> "list[TrainConfig]":
    """The cells that a file describes, with lists and settings of the command line over it."""
    from qprobe.engine import TrainConfig
    from qprobe.engine.sweep import grid, split_axes

    base, listed = split_axes(filed, source)
    for name in settings:
        if name in axes:
            raise InputError(f"--set {name} and --{name} contradict each other; keep one of them.")
        listed.pop(name, None)
    for name in axes:
        base.pop(name, None)
    return grid(TrainConfig.of({**base, **settings}), {**listed, **axes})


def train_cell(config: "TrainConfig", folder: Path, probing: Probing | None = None) -> Path:
    """Train one cell, or go on with it, with probes unless there are none; called in a worker."""
    from qprobe.engine import train

    callbacks = [] if probing is None else [probing.callback()]
    train(config, folder, callbacks=callbacks, resume=True)
    return folder / "run.qprobe"


def summary(result: "SweepResult") -> str:
    """One line, and one more for each cell that failed."""
    from qprobe.engine.sweep import State

    counts = [(len(result.of(state)), state) for state in State]
    said = ", ".join(f"{count} {state}" for count, state in counts if count)
    failed = [f"{one.cell.name} failed: {one.reason}." for one in result.of(State.FAILED)]
    return "\n".join([*failed, f"{said}."])


def exit_code(result: "SweepResult") -> int:
    """130 where Ctrl-C left work undone, 1 where a cell failed or is not done, else 0."""
    from qprobe.engine.sweep import State

    undone = result.of(State.INTERRUPTED, State.NOT_STARTED)
    if result.interrupted and undone:
        return 130
    return 1 if undone or result.of(State.FAILED) else 0


def as_plain(result: "SweepResult") -> dict[str, Any]:
    """The result as JSON takes it."""
    return {
        "interrupted": result.interrupted,
        "cells": [
            {
                "folder": str(one.cell.folder),
                "hash": one.cell.hash,
                "state": str(one.state),
                "reason": one.reason,
                "seconds": one.seconds,
            }
            for one in result.outcomes
        ],
    }


def _check_names(cells: "Sequence[TrainConfig]") -> None:
    """A misspelt recipe is refused now, rather than by every one of its cells."""
    from qprobe.models.build import ARCHITECTURES
    from qprobe.quant import recipe

    for name in {cell.recipe: None for cell in cells}:
        recipe(name)
    for name in {cell.arch: None for cell in cells}:
        if ":" not in name:
            ARCHITECTURES.get(name)


def _backend(ray: str | None, workers: int) -> "Backend":
    from qprobe.engine.sweep import Processes, RayCluster

    return Processes(workers=workers) if ray is None else RayCluster(address=ray, workers=workers)


def _estimate(
    cells: "Sequence[TrainConfig]", out: Path, workers: int, probing: Probing
) -> "Estimate":
    from qprobe.cli.step_clock import count_steps, time_step
    from qprobe.engine.sweep import estimate

    timed = partial(time_step, probing=probing)
    return estimate(cells, out, time_step=timed, count_steps=count_steps, workers=workers)


def _show_estimate(found: "Estimate", *, as_json: bool) -> int:
    from qprobe.cli.durations import spoken

    rows: list[dict[str, Any]] = [
        {
            "arch": one.config.arch,
            "size": one.config.size,
            "image": one.config.image,
            "recipe": one.config.recipe,
            "batch": one.config.batch,
            "cells": one.cells,
            "steps": one.steps,
            "step_s": one.step_s,
        }
        for one in found.combinations
    ]
    if as_json:
        whole = {"cells": found.cells, "finished": found.finished, "workers": found.workers}
        print(json.dumps({**whole, "wall_s": found.wall_s, "combinations": rows}, indent=2))
        return 0
    for row in rows:
        print(
            "{arch} {size} {image}² {recipe}, batch {batch}: {cells} cells, {steps} steps, "
            "{step_s:.3f} s a step".format(**row)
        )
    todo = found.cells - found.finished
    print(
        f"{found.cells} cells, {found.finished} finished, {todo} to train: at most about "
        f"{spoken(found.wall_s)} with {found.workers} workers; probes count, evaluation and "
        "start-up do not."
    )
    return 0
