"""Choose the layers: a knapsack, whose values are recoveries and whose weights are parameters.

Recoveries of single layers are added up. That is a prediction: layers that fail only together give
more, layers that repair the same damage give less, so a plan is worth measuring.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qprobe.errors import InputError
from qprobe.inference.interval import Interval
from qprobe.plan.evidence import LEVEL, Evidence, Layer
from qprobe.plan.goal import Goal, KeepLayers, KeepShare, Target
from qprobe.plan.plan import Plan

#: Steps into which a budget of parameters is divided; costs are rounded up to them.
_STEPS = 10_000


def choose(evidence: Evidence, goal: Goal, recipe: str) -> Plan:
    """The smallest set of layers that reaches a target, or the best one within a budget.

    Only layers whose recovery is above zero are kept: no layer is spent on nothing. A budget is
    never exceeded; the sum of recoveries is the best within it up to rounding of the costs to a
    ten-thousandth. A target is reached with the fewest parameters up to the same rounding.
    """
    values = _values(evidence, goal)
    useful = [layer for layer in evidence.layers if values.get(layer.path, 0.0) > 0]
    worth = [values[layer.path] for layer in useful]
    if isinstance(goal, KeepLayers):
        order = sorted(range(len(useful)), key=lambda at: -worth[at])
        chosen = order[: goal.layers]
    elif isinstance(goal, KeepShare):
        costs = [layer.parameters for layer in useful]
        chosen = _within(worth, costs, int(goal.share * evidence.parameters))
    else:
        chosen = _reaching(evidence, goal, useful, worth)
    kept = sorted((useful[at] for at in chosen), key=lambda layer: -values[layer.path])
    return _plan(evidence, goal, recipe, kept)


def _values(evidence: Evidence, goal: Goal) -> dict[str, float]:
    """What layers are chosen by: recoveries, or for a budget screens where nothing was measured."""
    recovered = {layer.path: layer.recovery.estimate for layer in evidence.layers if layer.recovery}
    if recovered:
        return recovered
    if isinstance(goal, Target):
        raise InputError(
            "the run was only screened, so no score can be predicted; run 'qprobe analyze' without "
            "--quick, or ask for a budget with --keep."
        )
    screened = {layer.path: layer.screen for layer in evidence.layers if layer.screen is not None}
    if not screened:
        raise InputError(
            "no layer of the run has a recovery or a screen; run 'qprobe analyze' again."
        )
    return screened


def _reaching(
    evidence: Evidence, goal: Target, useful: Sequence[Layer], worth: Sequence[float]
) -> list[int]:
    high, quantized = evidence.score_fp, evidence.score_q
    if high is None or quantized is None:
        raise InputError(
            "the run holds no scores of the whole model, so no target can be reckoned; run 'qprobe "
            "analyze' again, or ask for a budget with --keep."
        )
    if high <= 0:
        raise InputError(
            f"the high-precision score is {high:g}, and a percentage of it means nothing; ask for "
            "a budget with --keep."
        )
    missing = goal.share * high - quantized
    if missing <= 0:
        return []
    _check_reachable(evidence, goal, worth, missing)
    costs = [layer.parameters for layer in useful]
    table, taken, unit = _fill(worth, costs, sum(costs))
    enough = np.flatnonzero(table >= missing * (1 - 1e-12))
    # Costs are rounded up to whole steps, so that all layers together may not fit the last one.
    everything = list(range(len(useful)))
    chosen = _trace(taken, _units(costs, unit), int(enough[0])) if len(enough) else everything
    # What rounding let in for nothing goes out again, the most expensive first.
    for at in sorted(chosen, key=lambda at: -costs[at]):
        rest = [other for other in chosen if other != at]
        if sum(worth[other] for other in rest) >= missing:
            chosen = rest
    return chosen


def _check_reachable(
    evidence: Evidence, goal: Target, worth: Sequence[float], missing: float
) -> None:
    short = missing - sum(worth)
    if short > 0:
        raise InputError(
            f"the {len(worth)} layers that give something back fall short of {goal} by a predicted "
            f"{short:.4g}; lower the target{_more(evidence)}."
        )


def _more(evidence: Evidence) -> str:
    """What else would help, where layers were left out."""
    if all(layer.recovery for layer in evidence.layers):
        return ""
    return ", or measure all layers with 'qprobe analyze --exhaustive'"


def _within(worth: Sequence[float], costs: Sequence[int], budget: int) -> list[int]:
    affordable = [at for at, cost in enumerate(costs) if cost <= budget]
    if not affordable:
        return []
    few, prices = [worth[at] for at in affordable], [costs[at] for at in affordable]
    if sum(prices) <= budget:
        return affordable
    table, taken, unit = _fill(few, prices, budget)
    chosen = _trace(taken, _units(prices, unit), len(table) - 1)
    return [affordable[at] for at in chosen]


def _fill(
    worth: Sequence[float], costs: Sequence[int], budget: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], float]:
    """Best value for every step of the budget, whether each layer is taken there, and the step.

    Reference: Martello, Toth 1990, "Knapsack problems", sec. 2.6 (dynamic programming).
    """
    # Exact while a step is one parameter.
    steps = max(1, min(budget, _STEPS * max(1, len(worth) // 100)))
    unit = max(1.0, budget / steps)
    table = np.zeros(steps + 1)
    taken = np.zeros((len(worth), steps + 1), dtype=bool)
    for at, (value, weight) in enumerate(zip(worth, _units(costs, unit), strict=True)):
        if weight > steps:
            continue
        with_it = table[: steps + 1 - weight] + value
        better = with_it > table[weight:]
        taken[at, weight:] = better
        table[weight:] = np.where(better, with_it, table[weight:])
    return table, taken, unit


def _units(costs: Sequence[int], unit: float) -> list[int]:
    return [int(np.ceil(cost / unit)) for cost in costs]


def _trace(taken: npt.NDArray[np.bool_], weights: Sequence[int], left: int) -> list[int]:
    chosen = []
    for at in reversed(range(len(weights))):
        if taken[at, left]:
            chosen.append(at)
            left -= weights[at]
    return chosen[::-1]


def _plan(evidence: Evidence, goal: Goal, recipe: str, kept: Sequence[Layer]) -> Plan:
    paths = {layer.path for layer in kept}
    return Plan(
        recipe=recipe,
        goal=goal,
        kept=tuple(kept),
        quantized=tuple(layer for layer in evidence.layers if layer.path not in paths),
        score_fp=evidence.score_fp,
        score_q=evidence.score_q,
        predicted=_predicted(evidence, kept),
        measured=evidence.measured_score(paths) if paths else None,
        notes=tuple(_notes(evidence, kept)),
    )


def _predicted(evidence: Evidence, kept: Sequence[Layer]) -> Interval | None:
    """``score_q + Σ recovery``; the limits add up as if all errors went the same way.

    They were measured on the same samples, so their errors do not average out; the sum of the
    limits is the widest that they allow.
    """
    recovered = [layer.recovery for layer in kept if layer.recovery is not None]
    base = evidence.score_q
    if base is None or not recovered or len(recovered) < len(kept):
        return None
    return Interval(
        estimate=base + sum(one.estimate for one in recovered),
        low=base + sum(one.low for one in recovered),
        high=base + sum(one.high for one in recovered),
        level=LEVEL,
        n=min(one.n for one in recovered),
        method="sum of single recoveries",
    )


def _notes(evidence: Evidence, kept: Sequence[Layer]) -> list[str]:
    notes = []
    if evidence.gap is not None and evidence.gap.low <= 0:
        notes.append(
            "the interval of the score lost to quantization contains 0: there may be nothing to "
            "give back."
        )
    unknown = [layer for layer in evidence.layers if layer.recovery is None]
    if unknown and len(unknown) < len(evidence.layers):
        notes.append(
            f"{len(unknown)} of {len(evidence.layers)} layers were screened but not evaluated and "
            "stay quantized; 'qprobe analyze --exhaustive' evaluates all."
        )
    elif unknown:
        notes.append(
            "the layers were only screened: their order is a guess and no score is predicted; "
            "'qprobe analyze' without --quick measures them."
        )
    doubtful = [layer for layer in kept if layer.recovery and layer.recovery.low <= 0]
    if doubtful:
        notes.append(f"{_of(len(doubtful), len(kept))} within its noise: {_listed(doubtful)}.")
    predicted = _predicted(evidence, kept)
    high = evidence.score_fp
    if predicted is not None and high is not None and predicted.estimate > high:
        notes.append(
            "the recoveries add up to more than was lost: these layers repair the same damage, so "
            "fewer may do."
        )
    return notes


def _of(some: int, all_: int) -> str:
    """The recoveries of some layers, as the subject of a sentence with its verb."""
    if some == all_:
        return "the recovery of the one layer is" if all_ == 1 else "the recovery of each layer is"
    return f"the recovery of {some} of the {all_} layers is"


def _listed(layers: Sequence[Layer]) -> str:
    names = ", ".join(layer.path for layer in layers[:4])
    return names if len(layers) <= 4 else f"{names} and {len(layers) - 4} more"
