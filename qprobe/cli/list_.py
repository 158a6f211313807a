"""``qprobe list``: what there is to choose from."""

import inspect
import json
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from qprobe.cli import columns

app = typer.Typer(help="Show what there is to choose from.")

_PREFIX = "qprobe."

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.callback(invoke_without_command=True)
def everything(context: typer.Context, as_json: Json = False) -> None:
    """Show the names of everything registered, by kind; nothing is loaded."""
    if context.invoked_subcommand is not None:
        if as_json:
            command = f"qprobe list {context.invoked_subcommand} --json"
            raise typer.BadParameter(f"--json comes last: {command}.")
        return
    kinds = _kinds()
    if as_json:
        print(json.dumps(kinds, indent=2))
        return
    for kind, names in kinds.items():
        print(f"{kind}: {', '.join(names)}")


@app.command("recipes")
def recipes(as_json: Json = False) -> None:
    """Show every recipe: what it does to each operand of each matrix product."""
    from qprobe.cli import recipe_table
    from qprobe.quant import recipes as all_recipes

    known = all_recipes()
    if as_json:
        print(json.dumps([recipe_table.as_data(r) for r in known], indent=2))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        print("\n".join(recipe_table.for_pipe(known)))
        return
    table = Text("\n").join(recipe_table.for_terminal(known, console.width))
    console.print(table, soft_wrap=True)


@app.command("probes")
def probes(as_json: Json = False) -> None:
    """Show every probe: what it measures, and how often a session asks it."""
    from qprobe.probes.base import PROBES
    from qprobe.probes.schedule import Every

    _show(
        [
            {
                "name": probe.name,
                "every": max(Every().interval, getattr(probe, "every", 1)),
                "by default": getattr(probe, "default", True),
                "measures": _about(probe),
            }
            for probe in PROBES
        ],
        as_json,
    )


@app.command("analyzers")
def analyzers(as_json: Json = False) -> None:
    """Show every analyzer, by the names that ``qprobe analyze --only`` takes: what it does."""
    from qprobe.analyzers.base import ANALYZERS

    _show([{"name": one.name, "does": _about(one)} for one in ANALYZERS], as_json)


def _about(obj: object) -> str:
    """The first sentence of what the class of ``obj`` says of itself, without markup."""
    first = (inspect.getdoc(type(obj)) or "").split("\n\n")[0]
    return " ".join(first.replace("``", "").split())


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    cells = [[_cell(value) for value in one.values()] for one in rows]
    print("\n".join(columns.aligned([list(rows[0]), *cells])))


def _cell(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _kinds() -> dict[str, list[str]]:
    """Every entry-point group of qprobe, so that a new registry shows up by itself."""
    declared = entry_points()
    return {
        group.removeprefix(_PREFIX): sorted(declared.select(group=group).names)
        for group in sorted(declared.groups)
        if group.startswith(_PREFIX)
    }
