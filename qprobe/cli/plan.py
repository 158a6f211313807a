"""``qprobe plan``: which layers stay in high precision, and as which tool's configuration."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from qprobe.cli.plan_table import as_json as json_of
from qprobe.cli.plan_table import lines
from qprobe.errors import InputError
from qprobe.plan import Plan, Tool, choose, evidence, export
from qprobe.plan import keep as read_keep
from qprobe.plan import target as read_target
from qprobe.plan.evidence import PROBE
from qprobe.records import open as open_run


def plan(  # noqa: PLR0913  (one for each part of the question)
    run: Annotated[
        Path, typer.Argument(help="A .qprobe file of 'qprobe analyze'.", show_default=False)
    ],
    keep: Annotated[
        str | None,
        typer.Option(help="What may stay in high precision: 5% of the parameters, or 3 layers."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="What to reach: 99% of the high-precision score.")
    ] = None,
    to: Annotated[
        Tool | None, typer.Option("--to", help="Write the configuration of this tool.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for --to; standard output if not given.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="The recipe, where the file does not say it.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that exists.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> int:
    """Choose the smallest set of layers that has to stay in high precision."""
    if (keep is None) == (target is None):
        raise InputError("give one of --keep (such as 5%) and --target (such as 99%).")
    if out is not None and to is None:
        raise InputError(f"--out {out} needs --to, which says what to write there.")
    goal = read_keep(keep) if keep is not None else read_target(str(target))
    with open_run(run) as reader:
        name = recipe or reader.meta.recipe
        found = evidence(reader.records(probe=PROBE))
    if not name:
        raise InputError(f"{run} does not say under which recipe it was made; name it: --recipe.")
    made = choose(found, goal, name)
    _write(made, to, out, overwrite=overwrite)
    # What a tool reads comes alone on standard output, so that it can be piped into a file.
    stream = sys.stderr if to is not None and out is None else sys.stdout
    print("\n".join([json_of(made)] if as_json else lines(made)), file=stream)
    if out is not None:
        print(f"wrote {out}", file=sys.stderr if as_json else sys.stdout)
    return 0


def _write(made: Plan, to: Tool | None, out: Path | None, *, overwrite: bool) -> None:
    if to is None:
        return
    text = export(made, to)
    if out is None:
        print(text, end="")
        return
    try:
        with out.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{out} exists already; give --overwrite to replace it.") from None
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}; check the path.") from error
