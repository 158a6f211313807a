"""Attributes whose names are no Python names."""

from typing import Any


def aria(**values: str) -> dict[str, Any]:
    """For those who cannot see the page.

    >>> aria(label="runs", hidden="true")
    {'aria-label': 'runs', 'aria-hidden': 'true'}
    """
    return {f"aria-{name}": value for name, value in values.items()}


def data(**values: str) -> dict[str, Any]:
    """For the scripts of the page.

    >>> data(export="png")
    {'data-export': 'png'}
    """
    return {f"data-{name}": value for name, value in values.items()}
