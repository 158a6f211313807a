"""``qprobe list``: what there is to choose from."""

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

app = typer.Typer(no_args_is_help=True, help="Show what there is to choose from.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("recipes")
def recipes(as_json: Json = False) -> None:
    """Show every recipe: what it does to each operand of each matrix product."""
    from qprobe.quant import recipes as all_recipes

    known = all_recipes()
    if as_json:
        rows = [
            {
                "name": r.name,
                "summary": r.summary,
                "operands": r.cells(),
                "skip": list(r.skip),
                "reference": r.reference,
            }
            for r in known
        ]
        json.dump(rows, sys.stdout, indent=2, ensure_ascii=False)
        print()
        return
    console = Console()
    # In a pipe nothing is cut or wrapped: a line is a recipe.
    table = Table(
        title="y = x·wᵀ (fprop)   dx = dy·w (dgrad)   dw = dyᵀ·x (wgrad)"
        if console.is_terminal
        else None,
        box=None,
        pad_edge=False,
    )
    titles = list(known[0].cells())
    for title in ("recipe", *titles):
        table.add_column(title, no_wrap=True)
    for r in known:
        table.add_row(r.name, *(Text(cell.replace("nvfp4/", "")) for cell in r.cells().values()))
    console.print(table, crop=False, soft_wrap=not console.is_terminal)
