"""What the records of short runs say: which remedy helps a training, and which does not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from qprobe.analyzers.trials import AS_IS, INTENDED, SEED
from qprobe.analyzers.verification_findings import HIGH, intervals, words
from qprobe.analyzers.wording import counted, limits, number, signed
from qprobe.inference import Interval, of_family
from qprobe.records.schema import Cause, Finding, Record, Role, Severity

#: The probe under which short runs are filed, and how their keys begin.
PROBE = "short_run"
#: The training loss of each step; what a run gained over the one as it is; steps it came through.
LOSS, LOSS_GAIN, SCORE_GAIN, FINISHED = "loss.", "loss_gain.", "score_gain.", "finished."
#: Steps of all runs together.
TOTAL = "steps"
#: What the effect of these findings is in.
UNIT = "validation loss"
CONTROL = (
    "the same steps on the same batches with every layer as it is; the layer in high precision; "
    "another seed"
)
REFERENCE = "paired short runs: intervals are of validation groups, of one order of the data"

Gains = Mapping[str, Interval]


def findings(records: Sequence[Record]) -> list[Finding]:
    """One finding for each remedy that was tried at a layer."""
    mine = [one for one in records if one.probe == PROBE]
    finished = {
        (one.site, one.key.removeprefix(FINISHED)): int(one.value)
        for one in mine
        if one.key.startswith(FINISHED)
    }
    losses, scores = _together(_by_site(mine, LOSS_GAIN)), _by_site(mine, SCORE_GAIN)
    aside = losses.get("", {}).get(SEED)
    found: list[Finding] = []
    for (site, remedy), steps in finished.items():
        if not site or (remedy == HIGH and _remedies(finished, site)):
            continue  # the control is told beside the remedy
        gains = losses.get(site, {})
        if remedy in gains:
            found.append(_of_gain(site, remedy, steps, (gains, scores.get(site, {})), aside))
        else:
            found.append(_of_divergence(site, remedy, steps, finished["", AS_IS]))
    return found


def _together(losses: Mapping[str, Gains]) -> dict[str, Gains]:
    """Limits that hold for all remedies that were tried; controls keep their own."""
    tried = sum(name not in (HIGH, SEED) for names in losses.values() for name in names)
    return {
        site: {
            name: one if name in (HIGH, SEED) else of_family(one, tried)
            for name, one in names.items()
        }
        for site, names in losses.items()
    }


def helps(gain: Interval, aside: Interval | None) -> bool:
    """Whether a gain is sure and beyond what another seed changes."""
    return gain.low > max(0.0, 0.0 if aside is None else abs(aside.estimate))


def harms(gain: Interval, aside: Interval | None) -> bool:
    """The same, the other way round."""
    return gain.high < -max(0.0, 0.0 if aside is None else abs(aside.estimate))


def _remedies(finished: Mapping[tuple[str, str], int], site: str) -> bool:
    return any(where == site and remedy != HIGH for where, remedy in finished)


def _of_gain(
    site: str, remedy: str, steps: int, gains: tuple[Gains, Gains], aside: Interval | None
) -> Finding:
    losses, scores = gains
    gain = losses[remedy]
    good, bad = helps(gain, aside), harms(gain, aside)
    verb = "lower" if good else "raise" if bad else "do not change beyond doubt"
    change = (
        f" by {number(abs(gain.estimate))} {limits(gain if good else _turned(gain))}"
        if good or bad
        else f" ({signed(-gain.estimate)} {limits(_turned(gain))})"
    )
    told = []
    if remedy in scores:
        told.append(f"the score changes by {signed(scores[remedy].estimate)} "
                    f"{limits(scores[remedy])}")  # fmt: skip
    if remedy != HIGH and HIGH in losses:
        high = losses[HIGH]
        told.append(
            f"high precision there changes the loss by {signed(-high.estimate)} "
            f"{limits(_turned(high))}"
        )
    if aside is not None:
        told.append(f"another seed by {signed(-aside.estimate)}")
    claim = f"verified: {counted(steps, 'step')} with {remedy} at {site} {verb} the validation loss"
    return _finding(
        site, gain,
        claim="; ".join([f"{claim}{change}", *told]),
        remedy=_words(remedy, site) if good else "leave the layer as it is: nothing to gain here",
    )  # fmt: skip


def _of_divergence(site: str, remedy: str, steps: int, as_is: int) -> Finding:
    """Of runs of which one at least lost its finite loss there are steps and no scores."""
    further = float(steps - as_is)
    exact = Interval(
        estimate=further, low=further, high=further, level=0.95, n=max(steps, as_is, 1), method=""
    )
    return _finding(
        site, exact,
        claim=f"verified: the loss stays finite for {steps} steps with {remedy} at {site}, for "
        f"{as_is} as it is",
        unit="steps with a finite loss",
        remedy=_words(remedy, site) if further > 0 else "leave the layer as it is",
    )  # fmt: skip


def _words(remedy: str, site: str) -> str:
    if remedy == INTENDED:
        return f"make {site} quantize as its recipe says"
    return words(remedy, site)


def _finding(site: str, gain: Interval, **facts: object) -> Finding:
    filled = {
        "analyzer": PROBE,
        "cause": Cause.NOT_EXPLAINED,
        "severity": Severity.INFO,
        "sites": (site,),
        "roles": (Role.INPUT, Role.WEIGHT, Role.GRAD_OUTPUT),
        "effect": gain.estimate,
        "unit": UNIT,
        "low": gain.low,
        "high": gain.high,
        "n": gain.n,
        "control": CONTROL,
        "reference": REFERENCE,
    }
    return Finding(**(filled | facts))  # type: ignore[arg-type]


def _by_site(records: Sequence[Record], prefix: str) -> dict[str, dict[str, Interval]]:
    return {site: names for (site, _), names in intervals(records, prefix, PROBE).items()}


def _turned(found: Interval) -> Interval:
    """A gain of loss as the change of it."""
    return replace(found, estimate=-found.estimate, low=-found.high, high=-found.low)
