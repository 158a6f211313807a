"""Probes of a training, as the command line takes them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qprobe.probes.budget import ALLOWED, UNLIMITED, share

if TYPE_CHECKING:
    from qprobe.integrations.builtin import ProbeCallback

DEFAULT: Final = "default"
NONE: Final = "none"

Probes = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Probes that watch the layers: default, none, or names with commas between them.",
    ),
]
EverySteps = Annotated[
    int | None, typer.Option(min=1, help="Steps between two looks: 10 unless given.")
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE",
        help=f"Time that looking may take beside training, or none: {ALLOWED} unless given.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """Which probes watch a training, and how often; None is what the training was begun with."""

    probes: tuple[str, ...] | None = None
    every: int | None = None
    budget: str | None = None

    @classmethod
    def of(cls, probes: str | None, every: int | None, budget: str | None) -> "Probing":
        """From options; names and shares are checked before anything is made.

        >>> Probing.of("moments, four_bit", None, "2%").probes
        ('moments', 'four_bit')
        >>> Probing.of("none", None, None).probes
        ()
        """
        if budget not in (None, UNLIMITED):
            share(budget)
        return cls(probes=_names(probes), every=every, budget=budget)

    def callback(self) -> "ProbeCallback":
        """What attaches them."""
        from qprobe.integrations.builtin import ProbeCallback

        probes = DEFAULT if self.probes == (DEFAULT,) else self.probes
        return ProbeCallback(probes, every=self.every, budget=self.budget)


def _names(probes: str | None) -> tuple[str, ...] | None:
    if probes is None or probes == NONE:
        return None if probes is None else ()
    names = tuple(name.strip() for name in probes.split(","))
    if names != (DEFAULT,):
        from qprobe.probes.base import named

        named(names)
    return names
