"""Stages that change one layer at a time."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import numpy as np

from qprobe.analyzers.base import SlopedScore, Subject
from qprobe.analyzers.dequantization.emit import interval, record
from qprobe.analyzers.dequantization.evaluation import Evaluation, Judged
from qprobe.analyzers.dequantization.layers import OPERANDS, only, without_operand
from qprobe.analyzers.dequantization.measurement import Measurement
from qprobe.analyzers.dequantization.order import screen_order, spread
from qprobe.analyzers.dequantization.race import Race, Stop
from qprobe.analyzers.dequantization.screen import fisher, screen, signed
from qprobe.analyzers.dequantization.search import Mode
from qprobe.inference import kendall_tau
from qprobe.records.schema import Record, Role

#: The role under which an operand's records are filed.
ROLES = {"x": str(Role.INPUT), "w": str(Role.WEIGHT), "both": ""}
#: So many samples are screened at least, where a batch can be divided, and so many of a batch.
SCREENED = 16
OF_A_BATCH = 4
#: How much more is screened where batches are taken whole.
WHOLE = 3
#: Of what is screened where the score tells its slope, a loss gets so much: it orders no better
#: from more.
OF_A_LOSS = 1 / 2
#: Fewer items than this have no rank correlation with an interval.
RANKED = 5


def screening(m: Measurement) -> Iterator[Record]:
    """Every layer's first-order change of the loss, by operand."""
    if set(m.screen) >= set(m.layers):
        return
    with m.clock.part("screen"):
        found = screen(_sloped(m), m.layers, _screened(m))
    samples = sum(m.evaluation.sizes)
    for path in m.layers:
        if path not in found:
            yield record(path, "screen.missing", 1.0)
            continue
        one = found[path]
        m.screen[path] = samples * one.gain if m.sloped else one.value
        yield record(path, "screen", m.screen[path])
        yield record(path, "screen.samples", len(one.total))
        if m.sloped:
            m.unsure[path] = samples * one.stderr
            yield record(path, "screen.stderr", m.unsure[path])
        for operand, products in {**one.products, "both": one.total}.items():
            if m.sloped:
                gain = -samples * signed(products)
                yield record(path, "screen.gain", gain, ROLES[operand])
                continue
            yield record(path, "screen.signed", signed(products), ROLES[operand])
            yield record(path, "screen.fisher", fisher(products), ROLES[operand])


def _sloped(m: Measurement) -> Subject:
    """The subject, with its score for its loss where that tells its slope."""
    score, totals = m.subject.score, m.evaluation.base.statistics().sum(0)
    if not isinstance(score, SlopedScore):
        return m.subject
    return replace(m.subject, loss=lambda output, batch: -score.gains(output, batch, totals))


def _screened(m: Measurement) -> Iterator[Any]:
    """Samples from all over the data: those side by side, of one patient, are alike.

    They come from every batch, or from some where each would give too few. Batches that cannot be
    divided are taken whole, and more of them.
    """
    sizes, some = m.evaluation.sizes, m.subject.some
    share = m.search.screened * (1.0 if m.sloped else OF_A_LOSS)
    wanted = max(SCREENED, round(share * sum(sizes)))
    of_all = round(WHOLE * share * len(sizes)) if some is None else wanted // OF_A_BATCH
    chosen = spread(max(1, of_all), len(sizes))
    for n, batch in enumerate(m.subject.batches()):
        if n in chosen:
            yield batch if some is None else some(batch, spread(wanted // len(chosen), sizes[n]))


def _order(m: Measurement) -> list[str]:
    return screen_order(list(m.layers), m.screen, m.unsure)


def recoveries(m: Measurement) -> Iterator[Record]:
    """ΔM of single layers: of all, or of those that win a race."""
    if m.search.mode is Mode.EXHAUSTIVE:
        yield from _all(m)
        return
    affords = partial(_affords, m)
    race = Race(m.evaluation, m.search.top, affords, dict(m.recovered), m.screen, m.unsure)
    with m.clock.part("race"):
        stop = race.run(_order(m), {path: m.variant([path]) for path in m.layers})
    yield record("", f"stopped.{stop}", 1.0)
    for path, found in race.finished.items():
        if path not in m.recovered:
            yield from interval(path, "recovery", found)
    m.recovered = race.finished


def _affords(m: Measurement, lot: int) -> bool:
    """Whether the budget allows a lot, of which about half is played again."""
    return m.remaining_passes() >= 0.5 * lot


def _all(m: Measurement) -> Iterator[Record]:
    """In lots, so that what was measured is on disk when the rest is interrupted."""
    waiting = [path for path in _order(m) if path not in m.recovered]
    size = _lot(m)
    while waiting:
        lot, waiting = waiting[:size], waiting[size:]
        with m.clock.part("race"):
            gains = m.gains({path: m.variant([path]) for path in lot})
            found = {path: gain.interval() for path, gain in gains.items()}
        m.recovered |= found
        for path, one in found.items():
            yield from interval(path, "recovery", one)
    yield record("", f"stopped.{Stop.ALL}", 1.0)


def _lot(m: Measurement) -> int:
    """As many layers as have their statistics in a quarter of the memory, at most 32."""
    bytes_ = m.evaluation.base.statistics().nbytes
    return max(1, min(32, m.bounds.memory // 4 // max(1, bytes_)))


def operand_recoveries(m: Measurement) -> Iterator[Record]:
    """ΔM of x and of w alone, of the best layers."""
    if not m.search.operands:
        return
    known = {role: set(m.known.intervals("recovery", role)) for role in ROLES.values()}
    variants = {
        (path, operand): without_operand(m.layers[path], operand)
        for path in m.best(m.search.top)
        if m.layers[path].weighted
        for operand in OPERANDS
        if path not in known[ROLES[operand]]
    }
    names = {f"{path} {operand}": (path, operand) for path, operand in variants}
    with m.clock.part("operands"):
        gains = m.gains({name: variants[place] for name, place in names.items()})
        found = {names[name]: gain.interval() for name, gain in gains.items()}
    for (path, operand), one in found.items():
        yield from interval(path, "recovery", one, ROLES[operand])


def agreement(m: Measurement) -> Iterator[Record]:
    """Does the screen order layers as the truth does? Measured on some that nobody chose."""
    if m.search.mode is Mode.RACE and not m.search.agreement:
        return
    others = [path for path in m.layers if path not in m.recovered and path in m.screen]
    chosen = Random(m.search.seed).sample(others, min(m.search.agreement, len(others)))  # noqa: S311
    if chosen:
        with m.clock.part("agreement"):
            gains = m.gains({path: m.variant([path]) for path in chosen})
            found = {path: gain.interval() for path, gain in gains.items()}
        m.recovered |= found
        for path, one in found.items():
            yield from interval(path, "recovery", one)
    both = [path for path in m.recovered if path in m.screen]
    truth = np.array([m.recovered[path].estimate for path in both])
    guess = np.array([m.screen[path] for path in both])
    if len(both) >= RANKED and np.ptp(truth) > 0 and np.ptp(guess) > 0:
        yield from interval("", "agreement", kendall_tau(guess, truth, m.bounds.level))


def sensitivities(m: Measurement) -> Iterator[Record]:
    """S_l = M_fp − M_(only l quantized), of the best layers, or of all in an exhaustive search."""
    wanted = list(m.layers) if m.search.mode is Mode.EXHAUSTIVE else m.best(m.search.top)
    known = m.known.intervals("sensitivity")
    waiting = [path for path in wanted if path not in known]
    evaluation = Evaluation(m.subject, m.bounds, m.variant(list(m.layers)))
    size = _lot(m)
    with evaluation.opened():
        if waiting:
            with m.clock.part("sensitivity"):
                evaluation.evaluate_base()
        while waiting:
            lot, waiting = waiting[:size], waiting[size:]
            judged = {path: Judged() for path in lot}
            with m.clock.part("sensitivity"):
                evaluation.evaluate({p: only(m.restoring, m.layers, p) for p in lot}, judged)
                found = {
                    path: (m.high - evaluation.replicates(one)).interval()
                    for path, one in judged.items()
                }
            for path, one in found.items():
                yield from interval(path, "sensitivity", one)
