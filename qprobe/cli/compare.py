"""``qprobe compare``: are recipes different, over seeds and folds?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qprobe.errors import InputError

if TYPE_CHECKING:
    from qprobe.engine.sweep import Entry


def compare(  # noqa: PLR0913  (one for each part of the question)
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of runs, of which all below counts, or run files.", show_default=False
        ),
    ],
    metric: Annotated[
        str, typer.Option(help="auprc, dice, iou, recall, f2, surface_dice, loss.")
    ] = "auprc",
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    baseline: Annotated[str, typer.Option(help="The recipe to compare with.")] = "bf16",
    level: Annotated[float, typer.Option(help="Confidence level.")] = 0.95,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Compare recipes over seeds and folds.

    Means, paired tests with intervals, and what is missing.
    """
    from qprobe.cli.comparison_table import show, show_json
    from qprobe.engine.compare import Question
    from qprobe.engine.compare import compare as answer

    question = Question(metric=metric, split=split, baseline=baseline, level=level)
    found = answer(entries_of(folders), question)
    (show_json if as_json else show)(found)
    return 0


def entries_of(folders: list[Path]) -> "list[Entry]":
    """Every training in the folders, each file once even where folders overlap."""
    return list({one.path: one for folder in folders for one in _entries(folder)}.values())


def _entries(named: Path) -> "list[Entry]":
    """Those of a folder, or of a run file in it."""
    from qprobe.engine.sweep import index

    if not named.is_file():
        return index(named)
    found = [one for one in index(named.parent) if one.path == named]
    if not found:
        raise InputError(f"{named} is no run of a training; name a folder that holds some.")
    return found
