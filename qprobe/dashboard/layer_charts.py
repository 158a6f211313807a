"""The charts of one layer, beside those of the baseline: which values go into each of them."""

import re

import plotly.graph_objects as go

from qprobe.dashboard.figures import layer as figures
from qprobe.dashboard.figures.frame import empty
from qprobe.dashboard.layer_detail import LayerDetail, Magnitudes
from qprobe.dashboard.measures import Measure
from qprobe.records import Column, Series

#: What a measure of one head begins with.
HEAD = re.compile(r"^head\d+\.")


def histogram(
    ours: LayerDetail, theirs: LayerDetail | None, role: str | None, *, dark: bool
) -> tuple[go.Figure, str]:
    """The values of one tensor by octave, and what was counted beside them."""
    found = ours.magnitudes.get(role or "")
    if found is None:
        return empty("No histogram was recorded.", dark=dark), ""
    other = theirs.magnitudes.get(role or "") if theirs else None
    return figures.histogram(found, other, dark=dark), _counted(found)


def kurtosis(ours: LayerDetail, role: str | None, *, dark: bool) -> go.Figure:
    """The kurtoses of one tensor."""
    values = {
        column.key: float(series.values[-1])
        for column, series in ours.series.items()
        if is_kurtosis(column) and column.role == role
    }
    return figures.kurtosis(values, dark=dark)


def operands(ours: LayerDetail, *, dark: bool) -> go.Figure:
    """What each product and each tensor loses."""
    return figures.operands(*_errors(ours), dark=dark)


def has_operands(ours: LayerDetail) -> bool:
    """Whether there is an error of an operand or of a tensor to draw."""
    return any(_errors(ours))


def over_time(
    ours: LayerDetail, theirs: LayerDetail | None, name: str | None, *, dark: bool
) -> go.Figure:
    """One measure over the steps, of both runs."""
    lines = [("this run", one) for one in _named(ours, name).values()]
    if theirs is not None:
        lines += [("baseline", one) for one in _named(theirs, name).values()]
    return figures.over_time(lines, name or "", dark=dark)


def heads(ours: LayerDetail, key: str | None, *, dark: bool) -> go.Figure:
    """One measure of every head over the steps."""
    chosen = {
        column: series
        for column, series in ours.series.items()
        if HEAD.match(column.key) and HEAD.sub("", column.key) == key
    }
    return figures.heads(chosen, key or "", dark=dark)


def _counted(found: Magnitudes) -> str:
    counts = (("zero", found.zero), ("NaN", found.nan), ("inf", found.infinite))
    told = ", ".join(f"{count:,} {word}" for word, count in counts if count is not None)
    return f"step {found.step}{'; ' if told else ''}{told}"


def is_kurtosis(column: Column) -> bool:
    """Whether it is a kurtosis over channels, tokens or voxels."""
    return column.probe == "moments" and column.key in figures.KURTOSES


def _errors(detail: LayerDetail) -> tuple[dict[str, float], dict[str, float]]:
    """SQNR of operands (``fprop.x``) and of whole tensors in a format (``nvfp4 input``)."""
    products, tensors = {}, {}
    for column, series in detail.series.items():
        stem, _, end = column.key.rpartition(".")
        if end != "sqnr_db" or column.probe not in ("operand_error", "four_bit"):
            continue
        value = float(series.values[-1])
        if column.probe == "operand_error":
            products[stem] = value
        else:
            tensors[f"{stem} {column.role.replace('_', ' ')}"] = value
    return dict(sorted(products.items(), key=_by_product)), dict(sorted(tensors.items()))


def _by_product(one: tuple[str, float]) -> tuple[int, str]:
    product = one[0].partition(".")[0]
    known = ("fprop", "dgrad", "wgrad")
    return known.index(product) if product in known else len(known), one[0]


def _named(detail: LayerDetail, name: str | None) -> dict[Column, Series]:
    return {
        column: series
        for column, series in detail.series.items()
        if Measure.of(column).name == name
    }
