"""``qprobe diff``: where do two runs part?"""

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qprobe.cli.columns import aligned
from qprobe.cli.run_place import run_of
from qprobe.records import Column
from qprobe.records import open as open_run
from qprobe.records.parting import Difference, Parting, parting

_HEAD = ("layer", "tensor", "measured", "first", "second", "relative")
_Run = typer.Argument(help="A .qprobe file, or the folder of one.", show_default=False)


def diff(
    first: Annotated[Path, _Run],
    second: Annotated[Path, _Run],
    tolerance: Annotated[
        float, typer.Option(help="Relative difference that is let pass; 0: not one bit.")
    ] = 0.0,
    rows: Annotated[int, typer.Option(min=1, help="Differences to show.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> int:
    """Name the first step and layer where two runs part.

    Exit 1 if they do, or if they have nothing that could be compared.
    """
    with open_run(run_of(first)) as one, open_run(run_of(second)) as two:
        found = parting(one, two, tolerance)
    if as_json:
        print(json.dumps(_plain(found), indent=2, allow_nan=False))
    else:
        _show(found, rows)
    return 1 if found.differences or found.last_step is None else 0


def _show(found: Parting, rows: int) -> None:
    console = Console(highlight=False)
    console.print(_verdict(found), soft_wrap=True, markup=False)
    if found.differences:
        table = Table(box=None, pad_edge=False)
        for name in _HEAD:
            table.add_column(name, overflow="fold")  # the end of a name tells it from others
        for one in found.differences[:rows]:
            table.add_row(*map(Text, _row(one)))
        if sys.stdout.isatty():
            console.print(table)
        else:
            print("\n".join(aligned([_HEAD, *map(_row, found.differences[:rows])])))
        left = len(found.differences) - rows
        if left > 0:
            console.print(f"and {left:,} more at this step; --rows shows them.")
    for name, only in (("first", found.only_first), ("second", found.only_second)):
        if only:
            console.print(
                f"Only the {name} run has {len(only)} series, such as {_named(only[0])}.",
                soft_wrap=True,
                markup=False,
            )


def _verdict(found: Parting) -> str:
    if found.last_step is None:
        return "The runs have no measurement in common, so nothing can be compared."
    if not found.differences:
        return f"The runs agree in all {found.compared:,} values, up to step {found.last_step}."
    one = found.differences[0]
    count = len(found.differences)
    where = f" in {one.column.site}" if one.column.site else ""
    return (
        f"The runs part at step {one.step}{where}: {_what(one)} is {one.first:.6g} and "
        f"{one.second:.6g}. {count:,} {'value differs' if count == 1 else 'values differ'} there; "
        f"{found.compared:,} were compared, up to step {found.last_step}."
    )


def _what(one: Difference) -> str:
    column = one.column
    return f"{column.probe}.{column.key}{f' of {column.role}' if column.role else ''}"


def _named(column: Column) -> str:
    """A series in words, as its layer, tensor and measurement.

    >>> _named(Column("", "", "training", "loss")), _named(Column("fc", "input", "moments", "n"))
    ('training.loss', 'moments.n of fc input')
    """
    where = " ".join(part for part in (column.site, column.role) if part)
    return f"{column.probe}.{column.key}{f' of {where}' if where else ''}"


def _row(one: Difference) -> tuple[str, ...]:
    column = one.column
    return (
        column.site or "model",
        column.role or "-",
        f"{column.probe}.{column.key}",
        f"{one.first:.6g}",
        f"{one.second:.6g}",
        f"{one.relative:.2g}",
    )


def _plain(found: Parting) -> dict[str, Any]:
    """As JSON takes it: a number that is not finite as text."""
    plain = asdict(found)
    plain["differences"] = [
        {
            **one,
            "column": difference.column._asdict(),
            **{
                name: value if math.isfinite(value := one[name]) else str(value)
                for name in ("first", "second", "relative")
            },
        }
        for one, difference in zip(plain["differences"], found.differences, strict=True)
    ]
    for name in ("only_first", "only_second"):
        plain[name] = [column._asdict() for column in getattr(found, name)]
    return plain
