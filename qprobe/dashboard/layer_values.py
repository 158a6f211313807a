"""Values of layers that an analysis left, joined to the run that it is about."""

from collections.abc import Callable, Sequence

from qprobe.dashboard.figures.per_layer import Bar
from qprobe.dashboard.library import Library, Run
from qprobe.records import RunReader

#: ``values[site][key]``.
Values = dict[str, dict[str, float]]


def of_probe(reader: RunReader, probe: str) -> Values:
    """The last value of every key that a probe recorded of every layer."""
    found: Values = {}
    for column, series in reader.select(site="?*", probe=probe):
        found.setdefault(column.site, {})[column.key] = float(series.values[-1])
    return found


def holder(library: Library, run: Run, probe: str) -> tuple[Run, Values] | None:
    """The run itself or the newest analysis of it that has values of this probe."""
    analyses = sorted(library.analyses(run), key=lambda one: -one.created_s)
    for one in (run, *analyses):
        values = library.answer(one, of_probe, probe)
        if values:
            return one, values
    return None


def bars(values: Values, key: str) -> list[Bar]:
    """One bar a layer that has the key, with ``key_low`` and ``key_high``, or ``key_se`` twice."""
    return [_bar(site, known, key) for site, known in values.items() if key in known]


def keys(values: Values, known: Callable[[str], bool] = lambda _: True) -> Sequence[str]:
    """The keys that are values and no limits of others."""
    every = list(dict.fromkeys(key for one in values.values() for key in one))
    limits = {f"{key}_{end}" for key in every for end in ("low", "high", "se")}
    return [key for key in every if key not in limits and key != "n" and known(key)]


def _bar(site: str, known: dict[str, float], key: str) -> Bar:
    value, error = known[key], known.get(f"{key}_se")
    low, high = known.get(f"{key}_low"), known.get(f"{key}_high")
    if error is not None and low is None:
        low, high = value - 1.96 * error, value + 1.96 * error
    return Bar(site=site, value=value, low=low, high=high)
