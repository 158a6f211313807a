"""Every number that claims are decided by, from stored results alone."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import results
from number import Number, Stored
from results import Result

#: Modules that turn the results of stages into numbers, by what they are about.
EXPERTS = ("quality", "foresight", "discretization", "rounding", "minima")


class Expert(Protocol):
    """A module that sums up what some stages measured; it draws on nothing else."""

    def numbers(self, stored: Stored) -> dict[str, Number]:
        """Numbers by name; one that was not measured is left out."""


def load(folder: Path, scale: str, stages: Sequence[str]) -> dict[str, Mapping[str, Result]]:
    """What is stored of every stage at a scale."""
    return {name: results.load(folder, scale, name).results for name in stages}


def values(kept: Mapping[str, Mapping[str, Result]]) -> Stored:
    """The measured values without what they cost."""
    return {name: {key: one.values for key, one in of.items()} for name, of in kept.items()}


def numbers(stored: Stored) -> dict[str, Number]:
    """All numbers by name."""
    found: dict[str, Number] = {}
    for name in EXPERTS:
        found |= cast("Expert", import_module(name)).numbers(stored)
    return found
