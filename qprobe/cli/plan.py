"""``qprobe plan``: which layers stay in high precision, and as which tool's configuration."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qprobe.cli.run_place import analysis_of
from qprobe.errors import InputError
from qprobe.records import open as open_run

if TYPE_CHECKING:
    from qprobe.plan import Plan, Tool

_TOOLS = "qprobe, modelopt, torchao, te, llm-compressor"


def plan(  # noqa: PLR0913  (one for each part of the question)
    run: Annotated[
        Path,
        typer.Argument(
            help="A .qprobe file of 'qprobe analyze', or the folder of one.", show_default=False
        ),
    ],
    keep: Annotated[
        str | None,
        typer.Option(help="What may stay in high precision: 5% of the parameters, or 3 layers."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="What to reach: 99% of the high-precision score.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help=f"Write the configuration of a tool: {_TOOLS}.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File for --to; else standard output.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="The recipe, where the file does not say it.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that exists.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> int:
    """Choose the fewest layers that have to stay in high precision."""
    if (keep is None) == (target is None):
        raise InputError("give either --keep (such as 5%) or --target (such as 99%).")
    if out is not None and to is None:
        raise InputError(f"--out {out} needs --to, which says what to write there.")
    from qprobe.cli.plan_table import as_json as json_of
    from qprobe.cli.plan_table import lines
    from qprobe.plan import choose, evidence
    from qprobe.plan import keep as read_keep
    from qprobe.plan import target as read_target
    from qprobe.plan.evidence import PROBE

    tool = None if to is None else _tool(to)
    goal = read_keep(keep) if keep is not None else read_target(str(target))
    run = analysis_of(run)
    with open_run(run) as reader:
        name = recipe or reader.meta.recipe
        found = evidence(reader.records(probe=PROBE))
    if not name:
        raise InputError(f"{run} does not say under which recipe it was made; name it: --recipe.")
    made = choose(found, goal, name)
    _write(made, tool, out, overwrite=overwrite)
    # What a tool reads comes alone on standard output, so that it can be piped into a file.
    stream = sys.stderr if to is not None and out is None else sys.stdout
    print("\n".join([json_of(made)] if as_json else lines(made)), file=stream)
    if out is not None:
        print(f"wrote {out}", file=sys.stderr if as_json else sys.stdout)
    return 0


def _tool(name: str) -> "Tool":
    from qprobe.plan import Tool

    try:
        return Tool(name)
    except ValueError:
        raise InputError(f"there is no export to {name!r}; choose one of {_TOOLS}.") from None


def _write(made: "Plan", to: "Tool | None", out: Path | None, *, overwrite: bool) -> None:
    if to is None:
        return
    from qprobe.plan import export

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
