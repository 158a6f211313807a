"""Records as an analyzer asks for them: by probe, by site and role, by key."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from qprobe.records.schema import Record


class Place(NamedTuple):
    """A site and a role, as records name them."""

    site: str
    role: str


class Measured:
    """What records hold of one probe; of several steps the last one counts.

    >>> from qprobe.records.schema import Record
    >>> found = Measured([Record("", 1, "fc", "input", "moments", "std", 2.0)], "moments")
    >>> found.at(Place("fc", "input"))["std"], found.value("fc", "input", "mean")
    (2.0, None)
    """

    def __init__(self, records: Iterable[Record], probe: str) -> None:
        self._values: dict[Place, dict[str, float]] = {}
        steps: dict[tuple[Place, str], int] = {}
        for one in records:
            if one.probe != probe:
                continue
            place = Place(one.site, one.role)
            if one.step >= steps.get((place, one.key), one.step):
                steps[place, one.key] = one.step
                self._values.setdefault(place, {})[one.key] = one.value

    def __bool__(self) -> bool:
        return bool(self._values)

    def places(self, role: str | None = None) -> list[Place]:
        """Where something was measured, in the order of measurement."""
        return [place for place in self._values if role is None or place.role == role]

    def at(self, place: Place) -> Mapping[str, float]:
        """All values of a place; none where nothing was measured."""
        return self._values.get(place, {})

    def value(self, site: str, role: str, key: str) -> float | None:
        """One value; None where it was not measured."""
        return self.at(Place(site, role)).get(key)
