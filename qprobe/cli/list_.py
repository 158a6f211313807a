"""``qprobe list``: what there is to choose from."""

import json
from importlib.metadata import entry_points
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

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


def _kinds() -> dict[str, list[str]]:
    """Every entry-point group of qprobe, so that a new registry shows up by itself."""
    declared = entry_points()
    return {
        group.removeprefix(_PREFIX): sorted(declared.select(group=group).names)
        for group in sorted(declared.groups)
        if group.startswith(_PREFIX)
    }
