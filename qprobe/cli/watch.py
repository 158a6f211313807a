"""``qprobe watch``: the worst layers of a run, live on the terminal."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from qprobe.cli.run_place import run_of
from qprobe.cli.worst_layers import MEASURES, look, render
from qprobe.errors import InputError
from qprobe.records import Status
from qprobe.records import open as open_run

#: Columns of a pipe, which has no width of its own.
_WIDE = 120
_BY = f"What layers are ranked by: {', '.join(MEASURES)}."


def watch(
    run: Annotated[
        Path, typer.Argument(help="A .qprobe file, or the folder of one.", show_default=False)
    ],
    by: Annotated[str, typer.Option(help=_BY)] = "nvfp4",
    rows: Annotated[int, typer.Option(min=1, help="Layers to show.")] = 15,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show where it stands, and stop.")] = False,
) -> None:
    """Show the worst layers of a run while it is written.

    In a pipe, or at the end of the run, once. The file is only read: Ctrl-C ends the
    watching and not the training.
    """
    if by not in MEASURES:
        raise InputError(f"layers cannot be ranked by {by!r}; choose one of {', '.join(MEASURES)}.")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    with open_run(run_of(run)) as reader:
        seen = look(reader, by)
        if once or not sys.stdout.isatty() or seen.meta.status is not Status.RUNNING:
            console.print(render(seen, rows))
            return
        with Live(render(seen, rows), console=console, auto_refresh=False) as live:
            while seen.meta.status is Status.RUNNING:
                time.sleep(every)
                seen = look(reader, by)
                live.update(render(seen, rows), refresh=True)
