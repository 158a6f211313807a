"""A training and the analyses of its checkpoints: what any of them knows of a layer."""

from collections.abc import Callable, Hashable
from typing import TypeVar

from qprobe.dashboard.findings_order import how_grave
from qprobe.dashboard.layer_detail import LayerDetail, layer_detail
from qprobe.dashboard.layer_table import LayerTable, joined, layer_table
from qprobe.dashboard.layer_values import Values, of_probe
from qprobe.dashboard.library import Library, Run

T = TypeVar("T")


def family(library: Library, run: Run) -> list[Run]:
    """The run, the training it was made from, and analyses of either.

    Analyses of that training count only under the recipe of the run. Those that found the gravest
    come first, then the newest: whoever looks at a training wants to know what breaks it.
    """
    about = [one for one in library.runs() if run.source and one.id and one.id in run.source]
    beside = [one for each in about for one in library.analyses(each) if one.recipe == run.recipe]
    made = sorted(
        [*library.analyses(run), *beside], key=lambda one: (how_grave(one), -one.created_s)
    )
    return list({one.path: one for one in (run, *about, *made) if one.problem is None}.values())


def table_of(library: Library, run: Run, step: int | None = None) -> LayerTable:
    """Every layer's last values up to ``step``; of relatives those at their own end."""
    own = library.answer(run, layer_table, *(() if step is None else (step,)))
    relatives = [one for one in family(library, run) if one is not run]
    others = [library.answer(one, layer_table) for one in relatives]
    known = [own, *(table for table in others if table.sites)]
    if len(known) == 1:
        return own
    marks = tuple((one.path, one.stamp) for one in (run, *relatives))
    return library.remembered(("joined", marks, step), lambda: joined(known))


def detail_of(library: Library, run: Run, site: str) -> LayerDetail:
    """Everything about one layer; where two runs have the same, that of the first counts."""
    found = [library.answer(one, layer_detail, site) for one in family(library, run)]
    return LayerDetail(
        series={column: one for part in found[::-1] for column, one in part.series.items()},
        magnitudes={role: one for part in found[::-1] for role, one in part.magnitudes.items()},
    )


def first_of(
    library: Library, run: Run, read: Callable[..., T], *question: Hashable
) -> tuple[Run, T] | None:
    """The run itself, or the first of its family, of which there is an answer."""
    for one in family(library, run):
        found = library.answer(one, read, *question)
        if found:
            return one, found
    return None


def holder(library: Library, run: Run, probe: str) -> tuple[Run, Values] | None:
    """Who of the family has values of layers of this probe."""
    return first_of(library, run, of_probe, probe)
