"""What is wrong with a subject: the findings of several analyzers as one ranked answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf

from qprobe.analyzers import (
    attention,
    conformance,
    derivatives,
    fusion,
    gradients,
    outliers,
)
from qprobe.analyzers.base import ANALYZERS, ActiveAnalyzer, Analyzer, Subject
from qprobe.analyzers.observation import Observation, observe
from qprobe.analyzers.suspects import of_training
from qprobe.errors import InputError
from qprobe.records.schema import Array, Cause, Finding, Record, Role, Severity

#: Who measures what a layer costs, in units of the score.
_COSTS, _SCORE = "dequantization", "score"
#: What healthy models reach, by unit: a finding is as strong as it is many times beyond that.
_LIMITS = {
    outliers.CHANNELS: 7.0,
    outliers.TOKENS: 8.0,
    outliers.OUTPUTS: outliers.OUTPUT,
    outliers.RANGE: outliers.A_BIT,
    attention.NATS: attention.FELT_OFFSET,
    fusion.UNIT: fusion.CONCATENATED,
    gradients.UNIT: gradients.BIASED,
    gradients.NOISE: gradients.NOISY,
}
#: What is proven: a quantizer, or a gradient, that does not do what it should.
_PROOFS = frozenset({conformance.NAME, derivatives.NAME})
#: What an odd operand does to gradients and to branches, never the other way round.
_CONSEQUENCES = {gradients.NAME: 1, fusion.NAME: 2}
#: Roles whose error shows in the score; gradients do not.
_FORWARD = frozenset({Role.INPUT, Role.OUTPUT, Role.WEIGHT, Role.ATTN_LOGITS, Role.ATTN_PROBS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Findings of all analyzers, the most urgent first, one for a site and cause."""

    findings: tuple[Finding, ...]
    #: What could not be answered, each with the reason.
    not_measured: tuple[str, ...]
    #: All that was measured, for a run file.
    records: tuple[Record, ...]
    arrays: tuple[Array, ...]

    @property
    def alarm(self) -> bool:
        """Whether there is anything to complain about."""
        return any(one.severity.reaches(Severity.WARN) for one in self.findings)


def diagnose(
    subject: Subject,
    analyzers: Iterable[str | Analyzer] | None = None,
    *,
    batches: int | None = None,
) -> Diagnosis:
    """Ask analyzers about a subject, by name or themselves; without names, all that there are.

    Passive analyzers share one observation (of the first ``batches``); active ones run the model
    themselves. An analyzer that cannot be asked here is reported, not passed over.
    """
    chosen = [
        ANALYZERS.get(one) if isinstance(one, str) else one
        for one in (ANALYZERS.names() if analyzers is None else analyzers)
    ]
    if not chosen:
        raise InputError(
            f"a diagnosis takes at least one analyzer; there are {', '.join(ANALYZERS.names())}."
        )
    passive = [one for one in chosen if not isinstance(one, ActiveAnalyzer)]
    reads = sorted({name for one in passive for name in one.reads})
    seen = observe(subject, reads, batches=batches) if reads else Observation()
    records, arrays, refused = list(seen.records), list(seen.arrays), list(seen.not_measured)
    for one in chosen:
        if isinstance(one, ActiveAnalyzer):
            try:
                for item in one.measure(subject):
                    if isinstance(item, Record):
                        records.append(item)
                    else:
                        arrays.append(item)
            except InputError as error:
                refused.append(f"{one.name}: {error}")
    found = [finding for one in chosen for finding in one.analyze(records)]
    return Diagnosis(
        findings=tuple(ranked(found)),
        not_measured=tuple(refused),
        records=tuple(records),
        arrays=tuple(arrays),
    )


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """Findings merged by site and cause, demoted where they cost nothing, the most urgent first.

    By severity, then by what the layer was measured to cost, then by proof (a quantizer or a
    gradient that does not do what is intended) before evidence, then causes before what they do,
    then by how far beyond healthy models it is.
    """
    costs = {
        one.sites[0]: one
        for one in findings
        if one.analyzer == _COSTS and one.unit == _SCORE and len(one.sites) == 1
    }
    measured = any(one.analyzer == _COSTS and one.unit == _SCORE for one in findings)
    proven = {site for one in findings if _is_proof(one) for site in one.sites}
    # A gradient is lost where an operand is odd: the oddity is the cause, the loss what it does.
    odd = {
        site
        for one in findings
        if one.analyzer == outliers.NAME and one.severity.reaches(Severity.WARN)
        for site in one.sites
    }
    causes = [one for one in findings if one not in costs.values()]
    judged = [
        _judged(_explained(one, proven, odd), costs, measured=measured) for one in _merged(causes)
    ]
    # What a backward product loses says nothing of what the forward one costs.
    explained = (one for one in judged if one.cause is not Cause.NOT_EXPLAINED)
    told = {site for one in explained if not of_training(one) for site in one.sites}
    judged += [cost for site, cost in costs.items() if site not in told]
    order = list(Severity)
    return sorted(
        judged,
        key=lambda one: (
            -order.index(one.severity),
            -_cost(one, costs),
            not _is_proof(one),
            _CONSEQUENCES.get(one.analyzer, 0),
            -_strength(one),
        ),
    )


def _merged(findings: Sequence[Finding]) -> list[Finding]:
    """One finding a set of sites and cause: the strongest, with the roles of all."""
    found: dict[tuple[tuple[str, ...], Cause, str], Finding] = {}
    for one in sorted(findings, key=lambda one: (not _is_proof(one), -_strength(one))):
        # What concerns the whole model, or explains nothing, is only merged with its own kind.
        apart = one.claim if not one.sites or one.cause is Cause.NOT_EXPLAINED else ""
        first = found.setdefault((one.sites, one.cause, apart), one)
        roles = tuple(dict.fromkeys((*first.roles, *one.roles)))
        worst = max((first.severity, one.severity), key=list(Severity).index)
        found[one.sites, one.cause, apart] = replace(first, roles=roles, severity=worst)
    return list(found.values())


def _is_proof(one: Finding) -> bool:
    return one.analyzer in _PROOFS and one.severity.reaches(Severity.WARN)


def _explained(one: Finding, proven: set[str], odd: set[str]) -> Finding:
    """Evidence at a layer where something else explains it is no alarm of its own.

    At a layer whose quantizer is proven wrong all of it; a lost gradient where an operand is odd.
    """
    other = odd if one.analyzer == gradients.NAME else set()
    if _is_proof(one) or not (proven | other).intersection(one.sites):
        return one
    return replace(one, severity=Severity.INFO)


def _judged(one: Finding, costs: dict[str, Finding], *, measured: bool) -> Finding:
    """A finding in the light of what its layer costs, where that was measured."""
    if not measured or len(one.sites) != 1 or not _FORWARD.issuperset(one.roles) or not one.roles:
        return one
    if of_training(one):  # a weight has a share in the backward products too
        return one
    cost = costs.get(one.sites[0])
    if cost is None:
        return replace(one, severity=Severity.INFO)
    return replace(
        one,
        claim=f"{one.claim}; {cost.claim}",
        severity=cost.severity,
        effect=cost.effect,
        unit=cost.unit,
        low=cost.low,
        high=cost.high,
        n=cost.n,
        control=cost.control,
    )


def _cost(one: Finding, costs: dict[str, Finding]) -> float:
    return max((costs[site].low for site in one.sites if site in costs), default=0.0)


def _strength(one: Finding) -> float:
    """How many times beyond what healthy models reach; of proofs, by how much they deviate."""
    low = min(abs(one.low), abs(one.high)) if one.low * one.high > 0 else 0.0
    if _is_proof(one):
        return low
    limit = _LIMITS.get(one.unit)
    return low / limit if limit else (inf if low == inf else 0.0)
