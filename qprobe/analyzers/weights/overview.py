"""What an analysis of weights alone comes to: a verdict, what each format keeps, what is open."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from qprobe.analyzers.weights.measurement import PROBE
from qprobe.analyzers.weights.selection import Part
from qprobe.analyzers.wording import listed
from qprobe.records import Finding, Record, Severity

#: Ways to quantize as a person calls them, by the name under which they are recorded.
_FORMATS = {
    "nvfp4": "NVFP4",
    "mxfp4": "MXFP4",
    "int4_group": "INT4, 128 inputs a scale",
    "int4_channel": "INT4, a scale an output",
    "int4_tensor": "INT4, one scale",
    "int8_channel": "INT8, a scale an output",
}
_LEFT_OUT = {
    Part.EMBEDDING: "embeddings",
    Part.NARROW: "weights too narrow for a block",
    Part.STACK: "stacks of experts",
    Part.UNREAD: "weights in a packing that is not read",
    Part.OTHER: "norms, biases and others",
}
#: From which share of the elements on what was left out is told.
_WORTH_TELLING = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a format keeps of the weights, as the ratio of signal to rounding noise in dB."""

    format: str
    median_db: float
    lowest_db: float
    #: The layer with the lowest.
    site: str
    #: Weights that were compared.
    n: int


def kept(records: Sequence[Record]) -> tuple[Kept, ...]:
    """Of every format, over the judged weights; of none where some are in four bits already."""
    judged = _sites(records, "judged")
    if _sites(records, "packed") or _sites(records, "unread"):
        return ()
    ratios: dict[str, dict[str, float]] = defaultdict(dict)
    for one in records:
        name, _, key = one.key.rpartition(".")
        if one.probe == PROBE and key == "sqnr_db" and name in _FORMATS and one.site in judged:
            ratios[name][one.site] = one.value
    return tuple(
        Kept(
            format=_FORMATS[name],
            median_db=median(ratios[name].values()),
            lowest_db=min(ratios[name].values()),
            site=min(ratios[name], key=ratios[name].__getitem__),
            n=len(ratios[name]),
        )
        for name in _FORMATS
        if ratios[name]
    )


def verdict(title: str, records: Sequence[Record], findings: Sequence[Finding]) -> str:
    """One sentence."""
    judged, packed = _sites(records, "judged"), _sites(records, "packed")
    grave = [one for one in findings if one.severity is not Severity.INFO]
    sites = {site for one in grave for site in one.sites}
    unread = len(_sites(records, "unread"))
    total = len(judged | sites) + unread
    if not sites and unread:
        return (
            f"{unread} of {_weights(total)} of {title} {_be(unread)} packed in a way that is not "
            "read; no problem found in the others."
        )
    if not sites and total == len(dict(_mute(records))):
        return f"{title} has nothing to lose in {_weights(total)}: no format was compared."
    if not sites:
        return f"No problem found in {_weights(total)} of {title}; no data, no score."
    broken = {site for one in grave for site in one.sites if one.unit == "share of elements"}
    says = [
        what
        for what, these in (
            ("hold NaN or infinity" if len(sites) > 1 else "holds NaN or infinity", broken),
            ("are packed badly" if len(sites) > 1 else "is packed badly", sites & packed - broken),
            ("would suffer in four bits", sites - packed - broken),
        )
        if these
    ]
    return (
        f"{len(sites)} of {_weights(total)} of {title} {' or '.join(says)}; what it costs needs "
        "data."
    )


def left_out(records: Sequence[Record]) -> Iterator[str]:
    """A sentence on the weights that were not judged, where they are many."""
    told_of = {one.key: one.value for one in records if one.probe == PROBE and not one.site}
    of = {part: told_of[f"elements_{part}"] for part in Part if f"elements_{part}" in told_of}
    total = sum(of.values())
    told = [
        f"{what} {of[part] / total:.0%}"
        for part, what in _LEFT_OUT.items()
        if of.get(part, 0.0) >= _WORTH_TELLING * total > 0.0
    ]
    if told:
        share = of.get(Part.PRODUCT, 0.0) / total
        yield f"Judged are {share:.0%} of all elements; left out: {', '.join(told)}."


def mute(records: Sequence[Record]) -> Iterator[str]:
    """A sentence on the judged weights that say nothing of formats, which few are."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for site, reason in _mute(records):
        by_reason[reason].append(site)
    told = [f"{listed(sites)} ({reason})" for reason, sites in by_reason.items()]
    if told:
        yield f"No format was compared at {'; '.join(told)}."


def _mute(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Judged weights in which rounding leaves no noise to measure, each with the reason."""
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for one in records:
        if one.probe == PROBE and one.site:
            values[one.site][one.key] = one.value
    for site in sorted(_sites(records, "judged") - _sites(records, "packed")):
        of = values[site]
        broken = of.get("nan", 0.0) or of.get("infinite", 0.0)
        if broken or "absmax" not in of or any(key.endswith(".sqnr_db") for key in of):
            continue
        if not of["absmax"]:
            yield site, "all zero"
        elif not of.get("std", 1.0):
            yield site, "all elements equal"
        else:
            yield site, "too small for a scale"


def _sites(records: Sequence[Record], key: str) -> set[str]:
    """Layers of which ``key`` is told and not zero."""
    return {one.site for one in records if one.probe == PROBE and one.key == key and one.value}


def _weights(count: int) -> str:
    return f"{count} weight{'' if count == 1 else 's'}"


def _be(count: int) -> str:
    return "is" if count == 1 else "are"
