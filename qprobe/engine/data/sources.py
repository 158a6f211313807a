"""Data by name: the built-in sets and anybody's own as ``module:factory``."""

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

from qprobe.engine.data.busi import BusiConfig, busi
from qprobe.engine.data.dataset import Dataset
from qprobe.engine.data.lgg import LggConfig, lgg
from qprobe.engine.data.nifti import NiftiConfig, nifti
from qprobe.engine.data.phantom import PhantomConfig, phantom
from qprobe.engine.data.phantom3d import Phantom3dConfig, phantom3d
from qprobe.errors import InputError, UnknownNameError

Config = PhantomConfig | Phantom3dConfig | LggConfig | BusiConfig | NiftiConfig
Option = str | int | bool | Path | None
Options = Mapping[str, Option]


@dataclass(frozen=True, slots=True)
class _Source:
    config: type[Config]
    make: Callable[[Any], Dataset]


_SOURCES = {
    "phantom": _Source(PhantomConfig, phantom),
    "phantom3d": _Source(Phantom3dConfig, phantom3d),
    "lgg": _Source(LggConfig, lgg),
    "busi": _Source(BusiConfig, busi),
    "nifti": _Source(NiftiConfig, nifti),
}


def names() -> list[str]:
    """The built-in data sets."""
    return sorted(_SOURCES)


def options(name: str) -> tuple[str, ...]:
    """The options of a built-in data set."""
    return tuple(field.name for field in fields(_source(name).config))


def load(name: str, config: Config | Options | None = None) -> Dataset:
    """The data set called ``name``, or what the function ``module:factory`` returns.

    ``config`` is the set's own config or its fields by name, as a command line or a TOML file gives
    them; a function is called with them as keyword arguments.
    """
    if ":" in name:
        return _foreign(name, config)
    source = _source(name)
    made = config if isinstance(config, source.config) else configure(name, config or {})
    return source.make(made)


def configure(name: str, given: Config | Options) -> Config:
    """The config of a built-in set from its fields by name; strings become what a field holds."""
    config = _source(name).config
    if not isinstance(given, Mapping):
        raise InputError(f"{name!r} takes a {config.__name__}, not a {type(given).__name__}.")
    known = {field.name: field for field in fields(config)}
    for key in given:
        if key not in known:
            raise InputError(f"{name!r} has no option {key!r}; it has {', '.join(known)}.")
    for key, field in known.items():
        if field.default is MISSING and given.get(key) is None:
            raise InputError(f"{name!r} needs the option {key!r}; give it.")
    hints = typing.get_type_hints(config)
    return config(**{key: _value(name, key, hints[key], value) for key, value in given.items()})


def _source(name: str) -> _Source:
    if name not in _SOURCES:
        near = get_close_matches(name, _SOURCES, n=2, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?"
            if near
            else f"known: {', '.join(names())}."
        )
        raise UnknownNameError(
            f"there is no data set called {name!r}; {hint} Your own goes by module:factory."
        )
    return _SOURCES[name]


def _value(name: str, key: str, hint: Any, value: Option) -> Any:
    """``value`` as the type of its field; a type that does not fit is refused."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = next(kind for kind in kinds if kind is not type(None))
    try:
        if issubclass(kind, Enum) or (kind is Path and isinstance(value, str | Path)):
            return kind(value)
        if kind is int and isinstance(value, str):
            return int(value)
        if kind is bool and value in ("true", "false"):
            return value == "true"
    except ValueError:
        pass
    else:
        if type(value) is kind:
            return value
    choices = f"one of {', '.join(kind)}" if issubclass(kind, Enum) else f"of type {kind.__name__}"
    raise InputError(f"the option {key!r} of {name!r} is {value!r}; it has to be {choices}.")


def _foreign(name: str, config: Config | Options | None) -> Dataset:
    module, _, attribute = name.partition(":")
    if config is not None and not isinstance(config, Mapping):
        raise InputError(f"{name!r} takes its options by name, not a {type(config).__name__}.")
    if module.startswith(".") or "/" in module:
        raise InputError(
            f"the data set {name!r} names a path; give a module, as in my_package.scans:make, and "
            "set PYTHONPATH to the folder that holds it."
        )
    try:
        factory = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"the data set {name!r} could not be imported ({error}); "
            "install its module or set PYTHONPATH to its folder."
        ) from error
    if not callable(factory):
        raise InputError(f"{name!r} is a {type(factory).__name__} and not a function.")
    made = factory(**(config or {}))
    if not isinstance(made, Dataset):
        raise InputError(
            f"{name!r} returned a {type(made).__name__}; a data set has name, channels, classes, "
            "patients, __len__ and __getitem__."
        )
    if len(made.patients) != len(made) or not len(made):
        raise InputError(
            f"{name!r} has {len(made)} samples and names {len(made.patients)} patients; "
            "name the patient of every sample, of at least one."
        )
    return made
