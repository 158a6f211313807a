"""Which recipe, over seeds and folds? Finished trainings that differ in recipe, seed and fold."""

from collections.abc import Iterator, Mapping, Sequence
from math import inf

from qprobe.analyzers.base import Trained
from qprobe.inference.against_baseline import Effect, Key, Mean, Verdict, by_key, mean
from qprobe.records.schema import Cause, Finding, Record, Severity, severity

#: The probe under which scores of trainings are filed.
PROBE = "recipes"
#: What every recipe is compared with, and at which level.
BASELINE, LEVEL = "bf16", 0.95
_CONTROL = "trainings under bf16 with the same seed and fold"
_REFERENCE = "Wilcoxon 1945, signed ranks; Holm 1979; docs/concepts/intervals.md"
_APART = "|"

Scores = Mapping[str, Mapping[Key, float]]


class Recipes:
    """Compares the recipes of every group of trainings with bf16, as ``qprobe compare`` does.

    A record holds the score of one training, with the metric, the recipe, seed, fold and the group
    in its key. A score is better the greater it is.
    """

    name = PROBE
    reads = frozenset({PROBE})

    def measure_trainings(self, trainings: Sequence[Trained]) -> Iterator[Record]:
        """The scores, as records."""
        for one in trainings:
            fold = "" if one.fold is None else str(one.fold)
            key = _APART.join((one.metric, one.recipe, str(one.seed), fold, one.group))
            yield Record("", 0, "", "", PROBE, key, one.score)

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        """One finding for each recipe and group, the gravest first."""
        groups: dict[tuple[str, str], dict[str, dict[Key, float]]] = {}
        for one in records:
            if one.probe == PROBE:
                metric, recipe, seed, fold, group = one.key.split(_APART, 4)
                key = (int(seed), int(fold) if fold else None)
                groups.setdefault((group, metric), {}).setdefault(recipe, {})[key] = one.value
        found = [
            finding
            for (group, metric), scores in groups.items()
            for finding in _of_group(group, metric, scores)
        ]
        return sorted(found, key=lambda one: -list(Severity).index(one.severity))


def undecided(one: Finding) -> bool:
    """Whether a comparison has too few pairs to answer."""
    return f": {Verdict.TOO_FEW_PAIRS} (" in one.claim


def _of_group(group: str, metric: str, scores: Scores) -> Iterator[Finding]:
    if BASELINE not in scores:
        return
    base = mean(list(scores[BASELINE].values()), LEVEL)
    effects = by_key(scores, BASELINE, level=LEVEL, higher_is_better=True)
    for recipe, effect in effects.items():
        low, high = _limits(effect.difference)
        yield Finding(
            analyzer=PROBE,
            claim=f"{recipe} against {BASELINE}, {group}: {_says(metric, effect)}",
            cause=Cause.NOT_EXPLAINED,
            severity=_severity(effect, base),
            sites=(),
            roles=(),
            effect=effect.difference.estimate,
            unit=metric,
            low=low,
            high=high,
            n=effect.difference.n,
            control=_CONTROL,
            remedy=_remedy(effect),
            reference=_REFERENCE,
        )


def _says(metric: str, effect: Effect) -> str:
    apart = effect.difference
    pairs = f"{apart.n} pair{'s' if apart.n > 1 else ''}"
    parts = [f"{metric} {apart.estimate:+.3g}"]
    if apart.low is None or apart.high is None:
        parts.append(f"n = {apart.n}, no interval")
    else:
        parts.append(f"[{apart.low:+.3g}, {apart.high:+.3g}] over {pairs}")
    parts.append(f"p {effect.p_holm:.3f} after Holm")
    if effect.ratio is not None:
        parts.append(f"{effect.ratio.estimate:.1%} of bf16")
    if effect.cohens_d is not None:
        parts.append(f"Cohen's d {effect.cohens_d.estimate:.2f}")
    return f"{effect.verdict} ({', '.join(parts)})"


def _severity(effect: Effect, base: Mean) -> Severity:
    """Of what is surely lost of the baseline's score; nothing is sure unless the test says so."""
    if effect.verdict is not Verdict.WORSE or not base.estimate:
        return Severity.INFO
    _, high = _limits(effect.difference)
    return severity(-high / abs(base.estimate))


def _remedy(effect: Effect) -> str:
    if effect.verdict is Verdict.TOO_FEW_PAIRS:
        return (
            "train more seeds: one recipe needs six pairs for the test to answer, four need eight"
        )
    if effect.verdict is Verdict.WORSE:
        return "qprobe analyze on the best.pt of one of its trainings names the layer"
    return "nothing to do"


def _limits(found: Mean) -> tuple[float, float]:
    """Limits, which a single pair does not have."""
    if found.low is None or found.high is None:
        return -inf, inf
    return found.low, found.high
