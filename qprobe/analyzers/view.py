"""What an analysis says, as a person reads it: a verdict, the worst layers, and what is open.

Everything here is read from records and findings, so it can be told again from the file.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from qprobe.analyzers.analysis import PARAMETERS, not_measured
from qprobe.analyzers.analysis import PROBE as ANALYSIS
from qprobe.analyzers.caveats import caveats
from qprobe.analyzers.dequantization.emit import Measured
from qprobe.analyzers.dequantization.findings import together
from qprobe.analyzers.observation import NO_SITE, NOT_QUANTIZED
from qprobe.analyzers.recipes import PROBE as RECIPES
from qprobe.analyzers.recipes import undecided
from qprobe.analyzers.suspects import of_training
from qprobe.analyzers.verification_findings import HIGH, best, recoveries
from qprobe.analyzers.weights import overview
from qprobe.analyzers.weights.overview import Kept
from qprobe.analyzers.wording import counted, limits, number
from qprobe.inference import Interval
from qprobe.records import Finding, Record, Severity
from qprobe.records.schema import Cause, severity

#: What was measured at a layer, who asks for it, and what a clean answer rules out.
_LOOKED_FOR = (
    ("conformance", "conformance", "a wrong quantizer"),
    ("output_error", "outliers", "outliers"),
    ("attention_logits", "attention", "logits"),
)
#: A call that does what a remedy says: a row has no room for it, the finding keeps it.
_CODE = re.compile(r": override\(model, \{.*?\}\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subtitle:
    """What was analyzed."""

    title: str
    recipe: str | None
    #: What the score is called, such as ``auprc``.
    score: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A layer."""

    site: str
    severity: Severity
    #: Score that it recovers in high precision; None: not measured.
    cost: Interval | None
    #: The same as a share of what is lost; None where nothing is surely lost.
    share: float | None
    cause: Cause
    #: Causes that were looked for at the layer and not found, in a few words.
    ruled_out: tuple[str, ...]
    #: What was found where no cost is known, in a few words.
    found: str
    remedy: str
    #: ``verified``, ``no remedy helps``, or empty where none was tried.
    verified: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """An analysis in the order in which it is read."""

    problem: bool
    verdict: str
    rows: tuple[Row, ...]
    caveats: tuple[str, ...]
    not_measured: tuple[str, ...]
    #: What each format keeps of weights that came without data.
    kept: tuple[Kept, ...] = ()


def view(about: Subtitle, records: Sequence[Record], findings: Sequence[Finding]) -> View:
    """Read records and findings."""
    measured = Measured(records)
    gap, high = measured.interval("gap"), measured.interval("score.high_precision")
    costly = gap is None or high is None or _loses(gap, high)
    rows = tuple(_rows(measured, records, findings, costly=costly))
    if gap is None or high is None:
        problem = any(one.severity.reaches(Severity.WARN) for one in findings)
        # Weights by themselves are judged by their warnings; of a model whose score was not
        # measured nothing says which statistic matters, so all are told.
        rows = _shown(rows, all_=problem or about.recipe is not None)
        compared = [one for one in findings if one.analyzer == RECIPES]
        if compared:
            verdict = _of_recipes(about, compared)
        elif about.recipe is None:
            verdict = overview.verdict(about.title, records, findings)
        else:
            verdict = _without_score(about, findings)
    else:
        problem = _loses(gap, high)
        rows = _shown(rows, all_=problem)
        alone = together(measured)
        verdict = _of_score(about, (gap, high), rows if problem else None, alone)
    return View(
        problem=problem,
        verdict=verdict,
        rows=rows,
        kept=overview.kept(records) if gap is None else (),
        caveats=(
            *caveats(measured, findings, [row.found for row in rows], problem=problem),
            *((*overview.mute(records), *overview.left_out(records)) if gap is None else ()),
        ),
        not_measured=tuple(_missed(records)),
    )


def coverage(records: Sequence[Record]) -> str | None:
    """How much of a model is under the recipe; None where the file does not say."""
    sizes = Measured(records).values("parameters")
    whole = [one.value for one in records if (one.probe, one.key) == (ANALYSIS, PARAMETERS)]
    if not sizes or not whole:
        return None
    share = sum(sizes.values()) / whole[-1]
    return f"{counted(len(sizes), 'layer')} with {share:.0%} of the parameters"


def _missed(records: Sequence[Record]) -> Iterator[str]:
    """What was not measured, those together that have the same reason."""
    reasons: dict[str, list[str]] = {}
    for site, reason in not_measured(records):
        name, _, why = reason.rpartition(": ")
        if why in (NO_SITE, NOT_QUANTIZED):  # what a model has not is not missed one by one
            reasons.setdefault(why, []).append(name)
        else:
            reasons.setdefault(reason, []).append(site)
    alike: dict[str, list[str]] = {}
    for reason, sites in reasons.items():
        alike.setdefault(", ".join(sites), []).append(reason)
    for sites_, why_ in alike.items():
        yield f"{sites_}: {', '.join(why_)}"


def _of_score(
    about: Subtitle,
    scores: tuple[Interval, Interval],
    rows: Sequence[Row] | None,
    alone: Mapping[str, Interval],
) -> str:
    """The verdict of a measured score; ``rows`` of a problem, ``alone``: what layers cost."""
    gap, high = scores
    name = (about.score or "score").upper() if about.score == "auprc" else about.score or "score"
    whole = number(high.estimate)
    cost = f"{about.recipe} costs {number(gap.estimate)} {name} {limits(gap)} of {whole}"
    if gap.high < 0.0:
        gain = replace(gap, estimate=-gap.estimate, low=-gap.high, high=-gap.low)
        return (
            f"No problem found: {about.recipe} scores {number(gain.estimate)} {name} "
            f"{limits(gain)} better than high precision, {whole}."
        )
    if rows is None:
        return f"No problem found: {cost}."
    if not alone:
        return f"{cost}; which layers cost it was not measured."
    told = next((row for row in rows if row.share is not None), None)
    if told is None or told.share is None or (told.cost is not None and told.cost.low <= 0.0):
        return f"{cost}; no single layer surely recovers any of it."
    verb = "is" if alone[told.site].low > 0.0 else "may be"
    return f"{cost}; {told.site} alone {verb} {told.share:.0%} of it."


def _without_score(about: Subtitle, findings: Sequence[Finding]) -> str:
    odd = sum(one.severity.reaches(Severity.WARN) for one in findings)
    if odd:
        found = counted(odd, "warning")
    elif findings:
        found = f"no warning, {counted(len(findings), 'note')}"
    else:
        found = "nothing odd"
    return f"What {about.recipe} costs {about.title} was not measured; {found} in what was."


def _of_recipes(about: Subtitle, findings: Sequence[Finding]) -> str:
    worse = [one for one in findings if one.severity.reaches(Severity.WARN)]
    what = (
        f"{len(findings)} comparison{'s' if len(findings) > 1 else ''} of recipes in {about.title}"
    )
    open_ = sum(undecided(one) for one in findings)
    if not worse and open_:
        return f"Too few pairs to say in {open_} of {what}: {findings[0].remedy}."
    if not worse:
        return f"No problem found in {what}."
    return f"{len(worse)} of {what} surely lose score: {worse[0].claim}."


def _loses(gap: Interval, high: Interval) -> bool:
    """Whether the loss is sure and worth a warning; of a score of 0 every sure loss is."""
    if not high.estimate:
        return gap.low > 0.0
    return severity(gap.low / abs(high.estimate)).reaches(Severity.WARN)


def _shown(rows: Sequence[Row], *, all_: bool) -> tuple[Row, ...]:
    return tuple(row for row in rows if all_ or row.severity is not Severity.INFO)


def _rows(
    measured: Measured, records: Sequence[Record], findings: Sequence[Finding], *, costly: bool
) -> Iterator[Row]:
    """The layers that cost most, then those that only a statistic finds odd, the gravest first.

    A layer alone is a problem only of a model that has one (``costly``).
    """
    costs, gap = measured.intervals("recovery"), measured.interval("gap")
    seen = {(one.site, one.probe) for one in records}
    high = measured.interval("score.high_precision")
    tried = recoveries(records)
    by_site: dict[str, list[Finding]] = {}
    for one in findings:
        if len(one.sites) == 1:
            by_site.setdefault(one.sites[0], []).append(one)
    grave = list(Severity)
    ranked = sorted(
        {*by_site, *costs},
        key=lambda site: (
            -costs[site].estimate if site in costs else 0.0,
            -max((grave.index(one.severity) for one in by_site.get(site, [])), default=0),
        ),
    )
    lost = gap if gap is not None and gap.low > 0.0 else None
    screened = sorted(measured.values("screen").items(), key=lambda both: -both[1])
    places = {} if costs else {site: n for n, (site, _) in enumerate(screened, start=1)}
    ranked = [*places, *(site for site in ranked if site not in places)]
    for site in ranked:
        told = sorted(by_site.get(site, []), key=lambda one: -grave.index(one.severity))
        cost = costs.get(site)
        if cost is not None:  # what the score sees; the backward products are told apart
            told = [one for one in told if not of_training(one)]
        grave_enough = told and (cost is None or told[0].severity is not Severity.INFO)
        if not grave_enough and site not in places and (cost is None or cost.low <= 0.0):
            continue
        remedy, verified = _remedy(told, tried.get(site, {}), costed=cost is not None)
        yield Row(
            site=site,
            severity=told[0].severity if told else _severity(cost, high if costly else None),
            cost=cost,
            share=None if cost is None or lost is None else cost.estimate / lost.estimate,
            cause=_cause(told),
            ruled_out=tuple(_ruled_out(site, seen, by_site.get(site, []))),
            found=_screened(measured, site, places) or (told[0].claim if told else ""),
            remedy=remedy,
            verified=verified,
        )


def _screened(measured: Measured, site: str, places: Mapping[str, int]) -> str:
    """What is known of a layer that was only screened."""
    if site not in places:
        return ""
    gain = measured.value("screen.gain", site)
    expected = "" if gain is None else f", {'+' if gain > 0 else ''}{number(gain)} expected"
    return f"screened {places[site]} of {len(places)}{expected}"


def _ruled_out(
    site: str, seen: Collection[tuple[str, str]], findings: Sequence[Finding]
) -> Iterator[str]:
    """What was measured at a layer to find a cause, and came out clean."""
    told = {one.analyzer for one in findings}
    for probe, analyzer, what in _LOOKED_FOR:
        if (site, probe) in seen and analyzer not in told:
            yield what


def _cause(findings: Sequence[Finding]) -> Cause:
    named = (one.cause for one in findings if one.cause is not Cause.NOT_EXPLAINED)
    return next(named, Cause.NOT_EXPLAINED)


def _severity(cost: Interval | None, high: Interval | None) -> Severity:
    known = cost is not None and high is not None and high.estimate
    return severity(cost.low / abs(high.estimate)) if known and cost and high else severity(None)


def _remedy(
    findings: Sequence[Finding], tried: Mapping[str, Interval], *, costed: bool
) -> tuple[str, str]:
    """What to do, and whether that is known to help."""
    chosen, high = best(tried), tried.get(HIGH)
    if chosen is not None:
        name, gain = chosen
        share = f" ({gain.estimate / high.estimate:.0%} of bf16)" if high and high.low > 0 else ""
        return f"{name}: +{number(gain.estimate)}{share}", "verified"
    if tried:
        return f"keep in {HIGH}", "no 4-bit remedy helps surely"
    if findings:
        return _CODE.sub("", findings[0].remedy), ""
    return (f"keep in {HIGH}" if costed else ""), ""
