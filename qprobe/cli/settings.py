"""Settings as the command line takes them: a TOML file, and ``name=value`` pairs over it."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qprobe.errors import InputError


def from_file(path: Path | None) -> dict[str, Any]:
    """What a TOML file holds; nothing without one."""
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}.") from error


def from_pairs(pairs: Iterable[str] | None) -> dict[str, Any]:
    """``name=value`` as TOML would read the value, and as text where it is none.

    >>> from_pairs(["epochs=3", "lr=1e-4", "data=phantom"])
    {'epochs': 3, 'lr': 0.0001, 'data': 'phantom'}
    """
    given = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name.strip():
            raise InputError(f"a setting is given as name=value, got {pair!r}.")
        given[name.strip()] = _value(text.strip())
    return given


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
