"""From a size's name and the caller's options to a checked configuration."""

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypeVar

from qprobe.errors import InputError, UnknownNameError

Config = TypeVar("Config")

#: What the call itself gives, so an option of the same name would be said twice.
GEOMETRY = ("image", "in_channels", "classes", "patch")


def configure(
    kind: type[Config],
    sizes: Mapping[str, Mapping[str, Any]],
    size: str,
    geometry: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Config:
    """The configuration of ``size``, with ``options`` in place of the size's own values."""
    if size not in sizes:
        raise UnknownNameError(
            f"there is no size {size!r} of {kind.__name__}; known: {_list(sizes)}."
        )
    known = [field.name for field in fields(kind) if field.name not in GEOMETRY]  # type: ignore[arg-type]
    refuse_unknown(kind.__name__, options, known)
    return kind(**{**sizes[size], **geometry, **options})


def refuse_unknown(what: str, options: Mapping[str, Any], known: list[str]) -> None:
    """Raise for the first option that ``what`` does not take."""
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {_list(known)}."
            raise InputError(f"{what} takes no option {name!r}; {hint}")


def refuse(condition: bool, message: str) -> None:
    """Raise :class:`InputError` with ``message`` when ``condition`` holds."""
    if condition:
        raise InputError(message)


def check_rates(what: str, rates: Mapping[str, float]) -> None:
    """Every rate is a probability below one."""
    for name, rate in rates.items():
        refuse(not 0.0 <= rate < 1.0, f"{what}: {name} must be in [0, 1), got {rate}.")


def check_counts(what: str, counts: Mapping[str, object]) -> None:
    """Every count is a whole number of at least one."""
    for name, count in counts.items():
        whole = isinstance(count, int) and not isinstance(count, bool) and count >= 1
        refuse(not whole, f"{what}: {name} must be a whole number >= 1, got {count!r}.")


def _list(names: Mapping[str, Any] | list[str]) -> str:
    return ", ".join(sorted(names))
