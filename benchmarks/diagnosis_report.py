"""What doctors said about cases, counted: shares with their Wilson intervals, as tables."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from diagnosis_cases import Case
from diagnosis_doctors import BASELINES, Diagnosis
from scipy.stats import binomtest

NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """One case, and what each doctor that was asked said about it."""

    case: Case
    diagnoses: dict[str, Diagnosis] = field(default_factory=dict)

    def rank(self, doctor: str) -> int | None:
        """Place of the first right site, from 1; None where it is not named."""
        for place, (site, _) in enumerate(self.diagnoses[doctor].ranked, start=1):
            if site in self.case.sites:
                return place
        return None

    def named(self, doctor: str) -> str:
        """The cause that is named first."""
        ranked = self.diagnoses[doctor].ranked
        return str(ranked[0][1]) if ranked else NOTHING


@dataclass(frozen=True, slots=True)
class Share:
    """``hits`` of ``n``, with the 95 % Wilson interval."""

    hits: int
    n: int

    def __str__(self) -> str:
        """Percent with its interval; a dash where there is nothing to share.

        >>> str(Share(9, 10)), str(Share(0, 0))
        ('90% [60, 98]', '–')
        """
        if not self.n:
            return "–"
        found = binomtest(self.hits, self.n).proportion_ci(method="wilson")
        return f"{self.hits / self.n:.0%} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def share(hits: Iterable[bool]) -> Share:
    every = list(hits)
    return Share(sum(every), len(every))


_SICK: dict[str, Callable[[Examined, str], bool]] = {
    "top-1": lambda one, doctor: one.rank(doctor) == 1,
    "top-3": lambda one, doctor: (one.rank(doctor) or 4) <= 3,
    "alarm": lambda one, doctor: one.diagnoses[doctor].alarm,
    "cause": lambda one, doctor: one.named(doctor) == one.case.cause,
}


def doctors(every: Sequence[Examined]) -> list[str]:
    """Who was asked, in order."""
    return list(dict.fromkeys(doctor for one in every for doctor in one.diagnoses))


def _row(label: str, every: Sequence[Examined], doctor: str) -> str:
    asked = [one for one in every if doctor in one.diagnoses]
    sick = [one for one in asked if one.case.detectable]
    well = [one for one in asked if one.case.well]
    cells = [str(share(test(one, doctor) for one in sick)) for test in _SICK.values()]
    false = share(one.diagnoses[doctor].alarm for one in well)
    return f"| {label} | {len(sick)} | {' | '.join(cells)} | {len(well)} | {false} |"


def _headed(first: str, rows: Iterable[str]) -> list[str]:
    return [
        f"| {first} | detectable | {' | '.join(_SICK)} | healthy, benign | false alarms |",
        "|---|--:|" + "--:|" * (len(_SICK) + 2),
        *rows,
    ]


def by_doctor(every: Sequence[Examined]) -> list[str]:
    """One row a doctor, over all families."""
    return _headed("who", (_row(doctor, every, doctor) for doctor in doctors(every)))


def by_family(every: Sequence[Examined], doctor: str) -> list[str]:
    """One row a family, of one doctor."""
    families: dict[str, list[Examined]] = {}
    for one in every:
        families.setdefault(one.case.family, []).append(one)
    return _headed(doctor, (_row(name, some, doctor) for name, some in families.items()))


def by_kind(every: Sequence[Examined]) -> list[str]:
    """One row a kind: planted, detectable, and the top-1 share of every doctor."""
    asked = doctors(every)
    rows = [f"| kind | planted | detectable | {' | '.join(asked)} |"]
    rows.append("|---|--:|--:|" + "--:|" * len(asked))
    planted: dict[str, list[Examined]] = {}
    for one in every:
        if not one.case.well:
            planted.setdefault(one.case.kind, []).append(one)
    for kind, of_kind in planted.items():
        seen = [one for one in of_kind if one.case.detectable]
        hits = [sum(one.rank(doctor) == 1 for one in seen) for doctor in asked]
        cells = [f"{hit}" if seen else "–" for hit in hits]
        rows.append(f"| {kind} | {len(of_kind)} | {len(seen)} | {' | '.join(cells)} |")
    return rows


def by_strength(every: Sequence[Examined]) -> list[str]:
    """One row a kind: how many of each strength, weak to strong, are detectable."""
    found: dict[str, dict[float, list[bool]]] = {}
    for one in every:
        if not one.case.well:
            of_kind = found.setdefault(one.case.kind, {})
            of_kind.setdefault(one.case.strength, []).append(one.case.detectable)
    rows = ["| kind | detectable of planted, by strength |", "|---|---|"]
    for kind, strengths in found.items():
        cells = [f"{at:g}: {sum(seen)} of {len(seen)}" for at, seen in sorted(strengths.items())]
        rows.append(f"| {kind} | {' · '.join(cells)} |")
    return rows


def confusion(every: Sequence[Examined], doctor: str) -> list[str]:
    """Rows: planted causes of detectable defects; columns: what was named first."""
    table: dict[str, Counter[str]] = {}
    for one in every:
        if one.case.detectable and doctor in one.diagnoses:
            table.setdefault(str(one.case.cause), Counter())[one.named(doctor)] += 1
    named = list(dict.fromkeys((*table, *(name for row in table.values() for name in row))))
    head = " | ".join(name.replace("_", " ") for name in named)
    rows = [f"| planted \\ named | {head} |", "|---|" + "--:|" * len(named)]
    for cause, row in table.items():
        cells = " | ".join(str(row[name] or "") for name in named)
        rows.append(f"| {cause.replace('_', ' ')} | {cells} |")
    return rows


def mistakes(every: Sequence[Examined], doctor: str) -> list[str]:
    """Every case that a doctor got wrong, one line each."""
    lines = []
    for one in every:
        said = one.diagnoses.get(doctor)
        if said is None:
            continue
        right = one.rank(doctor) == 1 and one.named(doctor) == one.case.cause
        if said.alarm if one.case.well else one.case.detectable and not right:
            first = "; ".join(f"{cause} at {site}" for site, cause in said.ranked[:3]) or NOTHING
            of = f"{one.case.family}, {one.case.recipe}: {one.case.kind} {one.case.strength:g}"
            lines.append(f"- {of} at {(one.case.sites or ('nowhere',))[0]}: {first}")
    return lines


def report(every: Sequence[Examined]) -> str:
    """All tables; those of one doctor for each that is no baseline."""
    lines = [*by_doctor(every), "", *by_kind(every), "", *by_strength(every)]
    for doctor in doctors(every):
        if doctor not in BASELINES:
            lines += ["", *by_family(every, doctor), "", *confusion(every, doctor)]
            lines += ["", f"What {doctor} got wrong:", *mistakes(every, doctor)]
    return "\n".join(lines)
