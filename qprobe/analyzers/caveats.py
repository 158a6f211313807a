"""What to know of an analysis beside its verdict and its layers, a sentence each."""

from collections.abc import Iterator, Sequence

from qprobe.analyzers.dequantization.emit import Measured
from qprobe.analyzers.dequantization.findings import TRUSTED, interactions, pair
from qprobe.analyzers.recipes import PROBE as RECIPES
from qprobe.analyzers.short_run_findings import PROBE as SHORT_RUN
from qprobe.analyzers.suspects import of_training
from qprobe.analyzers.wording import counted, limits, listed, number
from qprobe.records import Finding, Severity
from qprobe.records.schema import CRITICAL_LOSS

#: Findings of these are sentences of their own, whatever layers are listed.
_CURVATURE = "curvature"


def caveats(
    measured: Measured, findings: Sequence[Finding], told: Sequence[str], *, problem: bool
) -> Iterator[str]:
    """Every sentence; ``told`` are the claims that the list of layers makes already."""
    yield from (_sentence(one) for one in findings if one.analyzer == RECIPES)
    yield from (_sentence(one) for one in findings if one.analyzer == SHORT_RUN)
    yield from _of_the_score(measured, problem)
    yield from _of_the_search(measured)
    if problem:
        yield from _of_sets(measured)
    yield from (_sentence(one) for one in findings if one.analyzer == _CURVATURE and not one.sites)
    training = [one for one in findings if of_training(one) and one.severity is not Severity.INFO]
    if training and training[0].claim not in told:
        yield f"In training: {training[0].claim}; {training[0].remedy}."


def _sentence(one: Finding) -> str:
    """A claim, which begins with a name in the tables of recipes and with a word elsewhere."""
    if one.analyzer == RECIPES:
        return f"{one.claim}."
    return f"{one.claim[:1].upper()}{one.claim[1:]}."


def _of_the_score(measured: Measured, problem: bool) -> Iterator[str]:
    gap, high = measured.interval("gap"), measured.interval("score.high_precision")
    if gap and high and not problem and gap.high >= CRITICAL_LOSS * abs(high.estimate):
        yield (
            f"The interval reaches {number(gap.high)}: {counted(gap.n, 'group')} "
            f"{'is' if gap.n == 1 else 'are'} few; more validation data would narrow it."
        )


def _of_the_search(measured: Measured) -> Iterator[str]:
    if measured.values("screen") and not measured.intervals("recovery"):
        yield (
            "Layers were screened and not measured; without --quick, and with --overwrite, they "
            "are."
        )
    elif measured.value("stopped.budget"):
        yield "The budget ended the search; --exhaustive measures every layer."
    idle = list(measured.values("screen.missing"))
    if idle:
        were, they = ("was", "it") if len(idle) == 1 else ("were", "they")
        yield (
            f"{listed(idle, most=3)} {were} not reached when layers were screened: {they} did not "
            f"run, or no gradient came to {'it' if len(idle) == 1 else 'them'}."
        )
    tau = measured.interval("agreement")
    if tau is not None:
        unsure = "cannot surely" if tau.estimate > TRUSTED else "cannot"
        trust = "can" if tau.low > TRUSTED else unsure
        yield (
            f"--quick {trust} be trusted on this model: its order of {tau.n} layers and the true "
            f"one have Kendall's τ {tau.estimate:.2f} {limits(tau)}."
        )


def _of_sets(measured: Measured) -> Iterator[str]:
    """What layers recover together, and pairs that do not add up."""
    together = sorted(measured.entries("cumulative"), key=lambda one: one.step)
    if len(together) > 1:
        last = together[-1].interval
        names = listed([one.site for one in together])
        yield f"{names} in high precision recover {number(last.estimate)} {limits(last)} together."
    tried = len(measured.entries("interaction"))
    pairs = interactions(measured)
    if pairs:
        most = max(pairs, key=lambda one: abs(one.interval.estimate))
        more = "more" if most.interval.estimate > 0 else "less"
        first = "it is" if len(pairs) == 1 else "the farthest are"
        size = number(abs(most.interval.estimate))
        yield (
            f"Of {counted(tried, 'pair')} of layers {len(pairs)} "
            f"{'does' if len(pairs) == 1 else 'do'} not add up; {first} "
            f"{' and '.join(pair(most))}, which recover {size} {more} together than the sum of "
            "what each recovers alone."
        )
    elif tried:
        yield f"Of {counted(tried, 'pair')} of layers none surely fails only together."
