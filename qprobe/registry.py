"""Names to objects, found through entry points.

Built-in objects and those of other distributions are declared the same way, in the
``[project.entry-points]`` table of whoever ships them, so adding one takes no import of qprobe and
no change to it::

    [project.entry-points."qprobe.recipes"]
    my-recipe = "my_package.recipes:MY_RECIPE"

Listing the names loads nothing.
"""

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from qprobe.errors import InputError, QprobeError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """The objects of one entry-point group, loaded when asked for.

    ``check`` turns a loaded object into what the registry promises, or raises
    :class:`~qprobe.errors.QprobeError`; it runs once per object.
    """

    def __init__(self, group: str, noun: str, check: Callable[[str, object], T]) -> None:
        self.group = group
        self.noun = noun
        self._check = check
        self._declared: dict[str, EntryPoint] | None = None
        self._loaded: dict[str, T] = {}

    def names(self) -> list[str]:
        """Every registered name, in alphabetical order."""
        return sorted({*self._entry_points(), *self._loaded})

    def get(self, name: str) -> T:
        """The object called ``name``."""
        if name not in self._loaded:
            declared = self._entry_points()
            if name not in declared:
                raise UnknownNameError(self._unknown(name))
            self._loaded[name] = self._check(name, self._load(declared[name]))
        return self._loaded[name]

    def register(self, name: str, obj: T) -> T:
        """Add an object for the life of this process, for notebooks and scripts."""
        if name in self._loaded or name in self._entry_points():
            raise InputError(f"{self.noun} {name!r} is registered already; choose another name.")
        self._loaded[name] = self._check(name, obj)
        return self._loaded[name]

    def __iter__(self) -> Iterator[T]:
        return (self.get(name) for name in self.names())

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._declared is None:
            declared: dict[str, EntryPoint] = {}
            for point in entry_points(group=self.group):
                rival = declared.setdefault(point.name, point)
                if rival.value != point.value:
                    raise InputError(
                        f"the {self.noun} {point.name!r} is declared twice, as {_origin(rival)} "
                        f"and as {_origin(point)}; uninstall or rename one."
                    )
            self._declared = declared
        return self._declared

    def _load(self, point: EntryPoint) -> object:
        try:
            return point.load()
        except QprobeError:
            raise
        except Exception as error:
            raise QprobeError(
                f"the {self.noun} {point.name!r} ({_origin(point)}) could not be imported: "
                f"{type(error).__name__}: {str(error).rstrip('.')}; "
                "repair or uninstall what ships it."
            ) from error

    def _unknown(self, name: str) -> str:
        names = self.names()
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?"
            if near
            else f"known: {', '.join(names) or 'none'}."
        )
        return f"there is no {self.noun} called {name!r}; {hint}"


def _origin(point: EntryPoint) -> str:
    return f"{point.value} of {point.dist.name}" if point.dist else point.value
