"""How measurements become records, and records measurements again."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from qprobe.inference import Interval
from qprobe.records.schema import Record

#: The probe under which everything of this analyzer is filed.
PROBE = "dequantization"
LEVEL = 0.95
_PARTS = ("", ".low", ".high", ".n")


def record(site: str, key: str, value: float, role: str = "", step: int = 0) -> Record:
    """One value; the run is filled in by the file that it is written to."""
    return Record("", step, site, role, PROBE, key, float(value))


def interval(
    site: str, key: str, found: Interval, role: str = "", step: int = 0
) -> Iterator[Record]:
    """An estimate with its limits and n, under ``key``, ``key.low``, ``key.high``, ``key.n``."""
    values = (found.estimate, found.low, found.high, found.n)
    for part, value in zip(_PARTS, values, strict=True):
        yield record(site, key + part, value, role, step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An interval that was recorded, and what of."""

    site: str
    role: str
    step: int
    interval: Interval


class Measured:
    """What a list of records holds of this analyzer; the last value of a column counts."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._values: dict[tuple[str, str, str, int], float] = {}
        self._sites: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
        for one in records:
            if one.probe != PROBE:
                continue
            place = (one.site, one.role, one.step)
            if (one.key, *place) not in self._values:
                self._sites[one.key].append(place)
            self._values[(one.key, *place)] = one.value

    def __bool__(self) -> bool:
        return bool(self._values)

    def keys(self) -> set[str]:
        """Everything of which there is a value."""
        return set(self._sites)

    def value(self, key: str, site: str = "", role: str = "", step: int = 0) -> float | None:
        """One value, None where it was not measured."""
        return self._values.get((key, site, role, step))

    def values(self, key: str) -> Mapping[str, float]:
        """A value of every site, without role, in the order of measurement."""
        places = self._sites.get(key, [])
        return {site: self._values[key, site, role, step] for site, role, step in places}

    def interval(self, key: str, site: str = "", role: str = "", step: int = 0) -> Interval | None:
        """One interval, None where any part of it is missing."""
        found = [self.value(key + part, site, role, step) for part in _PARTS]
        if None in found:
            return None
        estimate, low, high, n = (float(value) for value in found if value is not None)
        return Interval(
            estimate=estimate, low=low, high=high, level=LEVEL, n=int(n), method="recorded"
        )

    def entries(self, key: str) -> list[Entry]:
        """Every complete interval under ``key``, in the order of measurement."""
        found = []
        for site, role, step in self._sites.get(key, []):
            whole = self.interval(key, site, role, step)
            if whole is not None:
                found.append(Entry(site=site, role=role, step=step, interval=whole))
        return found

    def single(self, key: str) -> dict[tuple[str, str], float]:
        """Values of one batch, which have no interval, by site and role."""
        found = {}
        for site, role, step in self._sites.get(key, []):
            if self.value(f"{key}.n", site, role, step) == 1.0:
                found[site, role] = self._values[key, site, role, step]
        return found

    def intervals(self, key: str, role: str = "") -> dict[str, Interval]:
        """By site, of one role."""
        return {one.site: one.interval for one in self.entries(key) if one.role == role}


def largest(intervals: Mapping[str, Interval], count: int) -> list[str]:
    """The sites with the largest estimates, the largest first."""
    return sorted(intervals, key=lambda site: -intervals[site].estimate)[:count]
