"""Text in columns, with nothing cut: for pipes, and for tables that a person reads."""

from collections.abc import Sequence
from typing import Final

GAP: Final = "  "


def widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """What each column needs.

    >>> widths([("recipe", "bits"), ("nvfp4", "4")])
    [6, 4]
    """
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One line; cells that are longer than their column push the others on.

    >>> row(("nvfp4", "4", ""), (6, 4, 3))
    'nvfp4   4'
    """
    return GAP.join(f"{c:{w}}" for c, w in zip(cells, widths, strict=True)).rstrip()


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, columns two or more spaces apart.

    >>> aligned([("name", "every"), ("moments", "10")])
    ['name     every', 'moments  10']
    """
    needed = widths(rows)
    return [row(cells, needed) for cells in rows]
