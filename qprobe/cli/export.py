"""``qprobe export``: a run as tables for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from qprobe.errors import InputError
from qprobe.records import open as open_run
from qprobe.records.export import Format, Table, export, export_all


def export_(
    run: Annotated[Path, typer.Argument(help="A .qprobe file.", show_default=False)],
    to: Annotated[
        Path,
        typer.Option("--to", help="A .csv or .parquet file, or a folder for every table."),
    ],
    table: Annotated[
        Table | None, typer.Option("--table", help="Which table goes into a file; records if none.")
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="Format of the tables in a folder.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that exist.")
    ] = False,
) -> None:
    """Write a run as CSV or Parquet."""
    with open_run(run) as reader:
        if to.is_dir() or not to.suffix:
            if table is not None:
                raise InputError(
                    f"{to} is a folder and gets every table; leave out --table, or name a file."
                )
            paths = export_all(reader, to, form=form or Format.CSV, overwrite=overwrite)
        else:
            if form is not None:
                raise InputError(f"the suffix of {to} says the format; leave out --format.")
            paths = export(reader, to, table=table or Table.RECORDS, overwrite=overwrite)
    for path in paths:
        typer.echo(path)
