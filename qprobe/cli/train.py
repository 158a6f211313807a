"""``qprobe train``: one model, one recipe, one run file."""

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qprobe.cli.probing import Budget, EverySteps, Probes, Probing
from qprobe.cli.settings import from_file, from_pairs
from qprobe.errors import InputError

if TYPE_CHECKING:
    from qprobe.engine import TrainConfig, TrainResult

Folder = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for run and checkpoints.")]
_SETTING = "A setting by name, name=value; repeat it for several."


def train(  # noqa: PLR0913  (the settings people change most; --set reaches all of them)
    arch: Annotated[
        str | None, typer.Option(help="cnn, vit, swin, module:factory, monai:Class.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="tiny, 500k, 4m, 15m.")] = None,
    recipe: Annotated[str | None, typer.Option(help="See `qprobe list recipes`.")] = None,
    layers: Annotated[str | None, typer.Option(help="mid or all.")] = None,
    data: Annotated[
        str | None, typer.Option(help="phantom, phantom3d, lgg, busi, nifti, module:factory.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    image: Annotated[int | None, typer.Option(help="Side of the image in pixels.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training set.")] = None,
    steps: Annotated[int | None, typer.Option(help="At most this many optimizer steps.")] = None,
    batch: Annotated[int | None, typer.Option(help="Samples per step.")] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate; by default the architecture's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Initial weights, order, dropout, rounding.")
    ] = None,
    fold: Annotated[int | None, typer.Option(help="Train this fold of a cross-validation.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help=_SETTING)] = None,
    model_option: Annotated[list[str] | None, typer.Option(help="An option of the model.")] = None,
    data_option: Annotated[list[str] | None, typer.Option(help="An option of the data.")] = None,
    out: Folder = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the training in this folder.")
    ] = None,
    probes: Probes = None,
    every: EverySteps = None,
    budget: Budget = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads, 1 unless given: two workers beat two threads."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Train a model under a recipe.

    Ctrl-C saves, and --resume goes on to the bit. Settings come from --config, over them
    options like --lr, over them --set.
    """
    settings = {
        "arch": arch, "size": size, "recipe": recipe, "layers": layers, "data": data,
        "image": image, "epochs": epochs, "steps": steps, "batch": batch, "lr": lr, "seed": seed,
        "fold": fold,
    }  # fmt: skip
    given = from_file(config) | {
        name: value for name, value in settings.items() if value is not None
    }
    given |= from_pairs(set_)
    for table, pairs in (("model", model_option), ("data_options", data_option)):
        given[table] = {**_table(table, given.get(table, {})), **from_pairs(pairs)}
    if root is not None:
        given["data_options"]["root"] = str(root)

    import torch

    from qprobe.cli.progress import progress
    from qprobe.engine import train as run_training

    chosen, before = _config(given, resume, out)
    torch.set_num_threads(threads or before)
    folder = resume or out or Path("runs") / name_of(chosen)
    watch = Probing.of(probes, every, budget)
    callbacks = [*([] if quiet or as_json else [progress()]), watch.callback()]
    result = run_training(chosen, folder, callbacks=callbacks, resume=resume is not None)
    return report(result, quiet=quiet, as_json=as_json)


def name_of(config: "TrainConfig") -> str:
    """The default folder name of a training."""
    arch = config.arch.replace(":", "-")
    fold = "" if config.fold is None else f"-f{config.fold}"
    return f"{arch}-{config.size}-{config.recipe}-s{config.seed}{fold}"


def report(result: "TrainResult", *, quiet: bool, as_json: bool) -> int:
    """Say how it ended; the exit code."""
    if as_json:
        print(json.dumps(_json(asdict(result)), indent=2, allow_nan=False))
    elif not quiet:
        print(_sentence(result))
    return {"finished": 0, "interrupted": 130}.get(result.status, 1)


def _sentence(result: "TrainResult") -> str:
    if result.status == "failed":
        return f"Stopped: {result.reason}. What was recorded is in {result.folder}/run.qprobe."
    if result.status == "interrupted":
        folder = shlex.quote(str(result.folder))
        return f"Saved after step {result.steps}. Go on with: qprobe train --resume {folder}"
    scores = "  ".join(f"{name} {value:.4f}" for name, value in result.test.items())
    return f"Finished after {result.steps} steps. Test: {scores}\n{result.folder}/best.pt"


def _config(
    given: dict[str, Any], resume: Path | None, out: Path | None
) -> tuple["TrainConfig", int]:
    """The settings, and the threads to take unless told: a resumed run's own, so its bits stay."""
    from qprobe.engine import TrainConfig

    if resume is None:
        return TrainConfig.of(given), 1
    settings = [name for name, value in given.items() if value != {}]
    if settings or out is not None:
        name = settings[0] if settings else "--out"
        raise InputError(
            f"a resumed training keeps its settings and its folder, so {name} cannot be given; "
            "start a new one for other settings."
        )
    from qprobe import records

    if not (resume / "run.qprobe").is_file():
        raise InputError(f"there is no training in {resume}: it has no run.qprobe.")
    with records.open(resume / "run.qprobe") as run:
        meta = run.meta
    stored = {name: value for name, value in meta.config.items() if name != "hash"}
    threads = meta.environment.get("threads")
    return TrainConfig.of(stored), threads if isinstance(threads, int) else 1


def _table(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is a table of options, got {value!r}.")
    return dict(value)


def _json(value: Any) -> Any:
    """As JSON has it: a path as text, a number that is not finite as 'nan', 'inf' or '-inf'."""
    if isinstance(value, Mapping):
        return {name: _json(one) for name, one in value.items()}
    if isinstance(value, Path) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value
