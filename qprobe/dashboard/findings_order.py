"""The order in which findings are read, and which of them say the same."""

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from qprobe.dashboard.library import Run
from qprobe.records import Finding, Severity

_NUMBER = re.compile(r"\d[\d.,]*")
_GRAVEST = list(reversed(Severity))


def gravest_first(runs: Sequence[Run]) -> list[tuple[Run, Finding]]:
    """Findings of several runs by severity, then in the order in which they were said."""
    every = [(run, finding) for run in runs for finding in run.findings]
    return sorted(every, key=lambda both: _GRAVEST.index(both[1].severity))


def how_grave(run: Run) -> int:
    """The place of a run's gravest finding, 0 the gravest there is."""
    places = (_GRAVEST.index(finding.severity) for finding in run.findings)
    return min(places, default=len(_GRAVEST))


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A finding as the newest run has it, and the older ones that have it too, newest first."""

    run: Run
    finding: Finding
    others: tuple[tuple[Run, Finding], ...] = ()

    @property
    def disputed(self) -> bool:
        """Whether one of the others has an interval apart from this one, or another severity."""
        return any(
            other.low > self.finding.high
            or other.high < self.finding.low
            or other.severity is not self.finding.severity
            for _, other in self.others
        )


def told_once(found: Iterable[tuple[Run, Finding]], *, one_training: bool = False) -> list[Told]:
    """Findings in the order in which they are first met, each once however many runs have it.

    The same analyzer has to blame the same layers for the same cause under the same recipe, in the
    same checkpoint or, where all are of ``one_training``, in any. Numbers may differ. What one run
    says twice is two things, and two trainings that find the same are two witnesses.
    """
    alike: dict[Hashable, list[tuple[Run, Finding]]] = {}
    for run, finding in found:
        about = None if one_training else run.source or run.path
        what = (about, run.recipe, _subject(finding))
        again = 0
        while any(one is run for one, _ in alike.get((what, again), ())):
            again += 1
        alike.setdefault((what, again), []).append((run, finding))
    return [_told(each) for each in alike.values()]


def _subject(finding: Finding) -> Hashable:
    """What it is about; where it names no layer, its words without their numbers are."""
    words = "" if finding.sites else _NUMBER.sub("", finding.claim)
    return finding.analyzer, finding.cause, frozenset(finding.sites), finding.roles, words


def _told(found: Sequence[tuple[Run, Finding]]) -> Told:
    (run, finding), *others = sorted(found, key=lambda both: -both[0].created_s)
    return Told(run=run, finding=finding, others=tuple(others))
