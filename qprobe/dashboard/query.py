"""The part of an address after the question mark: what is shown, in readable words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import parse_qs, urlencode

#: A layer's name may be long, and an address with two of them still has to pass.
LONGEST: Final = 4000
_MOST_VALUES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Names and values as they came; whoever reads one says which values it knows."""

    values: Mapping[str, tuple[str, ...]]

    @classmethod
    def parse(cls, search: str | None) -> Self:
        """What an address says; never an error.

        >>> Query.parse("?run=a%2Fb&kind=x&kind=y&empty=").values
        {'run': ('a/b',), 'kind': ('x', 'y')}
        """
        text = (search or "").removeprefix("?")[: 4 * LONGEST]
        try:
            found = parse_qs(text, max_num_fields=200)
        except ValueError:
            return cls(values={})
        return cls(
            values={
                name: tuple(value[:LONGEST] for value in values[:_MOST_VALUES])
                for name, values in found.items()
            }
        )

    def text(self, name: str, default: str = "") -> str:
        """The value as it is."""
        return self.values.get(name, (default,))[0]

    def choice(self, name: str, known: Sequence[str], default: str | None = None) -> str | None:
        """The value if it is one of ``known``, else the default.

        >>> Query.parse("split=test").choice("split", ["validation", "test"], "validation")
        'test'
        >>> Query.parse("split=<b>").choice("split", ["validation", "test"], "validation")
        'validation'
        """
        value = self.text(name)
        return value if value in known else default

    def choices(self, name: str, known: Sequence[str]) -> list[str]:
        """The values that are among ``known``, in the order of the address."""
        return [value for value in self.values.get(name, ()) if value in known]

    def whole(self, name: str) -> int | None:
        """A whole number from 0, or None."""
        value = self.text(name)
        return int(value) if value.isascii() and value.isdigit() and len(value) <= 15 else None


def address(path: str, values: Mapping[str, str | Sequence[str] | None]) -> str:
    """A path with the values that are there.

    >>> address("/layer", {"run": "a b", "layer": None, "kind": ["x", "y"]})
    '/layer?run=a+b&kind=x&kind=y'
    """
    there = {name: value for name, value in values.items() if value}
    return f"{path}?{urlencode(there, doseq=True)}" if there else path
