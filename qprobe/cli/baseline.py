"""What became worse than in a stored analysis."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from qprobe import records
from qprobe.analyzers.wording import parted
from qprobe.errors import InputError
from qprobe.records import Finding, Severity
from qprobe.records.schema import Json

_ORDER = list(Severity)
#: What two analyses have in common whose findings can be compared one by one.
_ASKED = ("title", "recipe", "layers", "score", "depth", "only", "skip")


def stored(file: Path) -> list[Finding]:
    """The findings of a stored analysis."""
    with records.open(file) as run:
        before, meta = run.findings(), run.meta
        whole = any(True for _ in run.select(probe="analysis"))
    if not whole:
        raise InputError(
            f"{file} is no analysis (status {meta.status}); make it with 'qprobe analyze'."
        )
    return before


def unlike(file: Path, now: Mapping[str, Json]) -> str | None:
    """In what a stored analysis is another question than the one of the configuration ``now``.

    Findings of another model, recipe or choice of analyzers have no counterpart there, and so count
    as new.
    """
    with records.open(file) as run:
        before = run.meta.config
    told = parted(before, now, [name for name in _ASKED if name in before and name in now])
    return f"the baseline is of another analysis ({told})" if told else None


def worse_than(before: Sequence[Finding], findings: Sequence[Finding]) -> list[Finding]:
    """Findings graver than any of the same analyzer, layers, operands and unit ``before``.

    Of equal gravity one is worse whose interval lies above the stored one's: what noise explains is
    not worse. Information is never worse.
    """
    known: dict[object, list[Finding]] = {}
    for one in before:
        known.setdefault(_key(one), []).append(one)
    return [one for one in findings if _is_worse(one, known.get(_key(one), []))]


def sentence(one: Finding, before: Sequence[Finding]) -> str:
    """What is worse, and what stood for it in the stored analysis."""
    known = [old for old in before if _key(old) == _key(one)]
    least = min(known, key=lambda old: old.effect, default=None)
    was = "nothing like it before" if least is None else f"{_effect(least)} before"
    return f"{one.claim} ({_effect(one)}; {was})"


def _effect(one: Finding) -> str:
    exact = one.low == one.effect == one.high
    limits = "" if exact else f" [{one.low:.3g}, {one.high:.3g}]"
    return f"{one.effect:.3g}{limits} {one.unit}"


def _key(one: Finding) -> tuple[object, ...]:
    return one.analyzer, one.sites, one.roles, one.unit, one.cause


def _is_worse(one: Finding, before: Sequence[Finding]) -> bool:
    if one.severity is Severity.INFO or one.analyzer == "verification":
        return False
    rank = _ORDER.index(one.severity)
    graver = all(_ORDER.index(old.severity) < rank for old in before)
    larger = all(one.low > old.high for old in before)
    return graver or larger
