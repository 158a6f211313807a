"""Values of layers that an analysis left, joined to the run that it is about."""

from qprobe.dashboard.figures.per_layer import Bar, Growing
from qprobe.records import RunReader

#: ``values[site][key]``.
Values = dict[str, dict[str, float]]
#: What else is recorded of an estimate, after a dot.
_LIMITS = ("low", "high", "n", "stderr", "draws", "samples")
#: What is no property of one layer: kinds of layers and pairs of them.
_APART = ("kind.", "interaction")


def of_probe(reader: RunReader, probe: str) -> Values:
    """The last value of every key that a probe recorded of every layer.

    Of one operand the key names the tensor (``recovery of input``), beside that of the layer.
    """
    columns = reader.columns(site="?*", probe=probe)
    roles: dict[str, set[str]] = {}
    for column in columns:
        roles.setdefault(column.key, set()).add(column.role)
    found: Values = {}
    for column, point in reader.last(site="?*", probe=probe):
        if column.key.startswith(_APART):
            continue
        name = column.key
        if column.role and len(roles[column.key]) > 1:
            key, limit = _split(column.key)
            name = f"{key} of {column.role.replace('_', ' ')}{limit}"
        found.setdefault(column.site, {})[name] = point.value
    return found


def of_groups(reader: RunReader, probe: str, stem: str) -> Values:
    """The same of kinds (``kind.``) or pairs (``interaction``) of layers, without that stem."""
    found: Values = {}
    for column, point in reader.last(site="?*", probe=probe, key=f"{stem}*"):
        key = column.key.removeprefix("kind.")
        found.setdefault(column.site, {})[key] = point.value
    return found


def of_model(reader: RunReader, probe: str) -> dict[str, float]:
    """The last value of every key that a probe recorded of the model as a whole."""
    return {column.key: point.value for column, point in reader.last(site="", probe=probe)}


def growing(reader: RunReader, probe: str) -> list[Growing]:
    """The sets that grow by the layer that adds most, the smallest first: one layer a step."""
    parts: dict[tuple[int, str], dict[str, float]] = {}
    for column, series in reader.select(site="?*", probe=probe, key="cumulative*"):
        for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True):
            parts.setdefault((step, column.site), {})[column.key] = value
    return [
        Growing(
            site=site,
            value=known["cumulative"],
            low=known.get("cumulative.low"),
            high=known.get("cumulative.high"),
            additive=known.get("cumulative.additive"),
        )
        for (_, site), known in sorted(parts.items())
        if "cumulative" in known
    ]


def bars(values: Values, key: str) -> list[Bar]:
    """One bar a layer that has the key, with its limits or twice its standard error."""
    return [_bar(site, known, key) for site, known in values.items() if key in known]


def keys(values: Values) -> list[str]:
    """The keys that are values and no limits of others."""
    every = list(dict.fromkeys(key for one in values.values() for key in one))
    return [key for key in every if not _split(key)[1]]


def _split(key: str) -> tuple[str, str]:
    """A key and its limit.

    >>> _split("recovery.low"), _split("screen.signed"), _split("n")
    (('recovery', '.low'), ('screen.signed', ''), ('', 'n'))
    """
    stem, _, end = key.rpartition(".")
    return (stem, key[len(stem) :]) if end in _LIMITS else (key, "")


def _bar(site: str, known: dict[str, float], key: str) -> Bar:
    value, error = known[key], known.get(f"{key}.stderr")
    low, high = known.get(f"{key}.low"), known.get(f"{key}.high")
    if error is not None and low is None:
        low, high = value - 1.96 * error, value + 1.96 * error
    return Bar(site=site, value=value, low=low, high=high)
