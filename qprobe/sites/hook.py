"""Hooks that belong to one model, and not to copies of it."""

from functools import partial
from typing import Any


class Hook(partial[Any]):
    """A hook on a module; where the module is copied or pickled, nothing stands in its place.

    >>> from copy import deepcopy
    >>> deepcopy(Hook(print))("said") is None
    True
    """

    def __reduce__(self) -> Any:
        return _made_of_nothing, ()


def nothing(*_: object) -> None:
    """What a copied model calls."""


def _made_of_nothing() -> Any:
    return nothing
