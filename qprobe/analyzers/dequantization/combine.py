"""Stages that change several layers together: what adds up, and what does not."""

from collections.abc import Iterator
from itertools import combinations

from qprobe.analyzers.dequantization.emit import interval, record
from qprobe.analyzers.dequantization.measurement import Measurement
from qprobe.inference import Interval, of_family
from qprobe.records.schema import Record

#: What is between the two sites of a pair.
AND = " + "
#: Candidates that are tried for each further place of the cumulative set.
TRIED = 3


def kinds(m: Measurement) -> Iterator[Record]:
    """Layers dequantized by kind, one after the other: the kind that recovers most comes first."""
    by_kind: dict[str, list[str]] = {}
    for path, layer in m.layers.items():
        by_kind.setdefault(layer.kind, []).append(path)
    measured = len(m.known.entries("kind.cumulative")) == len(by_kind)
    if not m.search.cumulative or len(by_kind) < 2 or measured:
        return
    with m.clock.part("kinds"):
        alone = m.gains({kind: m.variant(paths) for kind, paths in by_kind.items()})
        found = {kind: gain.interval() for kind, gain in alone.items()}
    order = sorted(found, key=lambda kind: -found[kind].estimate)
    for kind in order:
        yield record(kind, "kind.layers", len(by_kind[kind]))
        yield from interval(kind, "kind.recovery", found[kind])
    sets = [[path for kind in order[: n + 1] for path in by_kind[kind]] for n in range(len(order))]
    with m.clock.part("kinds"):
        gains = m.gains({str(n): m.variant(paths) for n, paths in enumerate(sets)})
        steps = {name: gain.interval() for name, gain in gains.items()}
    for n, kind in enumerate(order):
        yield from interval(kind, "kind.cumulative", steps[str(n)], step=n + 1)


def cumulative(m: Measurement) -> Iterator[Record]:
    """A set that grows by the layer that adds most, of the few that recover most alone.

    Beside each set stands what its layers recover alone, added up: the set beats that prediction
    where layers fail together, and falls behind it where they fail in each other's place.
    """
    chosen: list[str] = []
    waiting = m.best(m.search.cumulative + TRIED)
    for best, left in _before(m):
        chosen.append(best)
        waiting = [path for path in waiting if path != best]
        if left.low <= 0.0:
            return
    while waiting and len(chosen) < m.search.cumulative:
        tried = waiting[:TRIED] if chosen else waiting[:1]
        with m.clock.part("cumulative"):
            gains = m.gains({path: m.variant([*chosen, path]) for path in tried})
            best = max(tried, key=lambda path: float(gains[path].estimate[0]))
            total, left = gains[best].interval(), (m.high - m.quantized - gains[best]).interval()
        chosen.append(best)
        waiting.remove(best)
        step = len(chosen)
        yield from interval(best, "cumulative", total, step=step)
        alone = sum(m.recovered[path].estimate for path in chosen)
        yield record(best, "cumulative.additive", alone, step=step)
        yield from interval(best, "cumulative.left", left, step=step)
        if left.low <= 0.0:
            return  # what is left of the gap may be nothing


def _before(m: Measurement) -> Iterator[tuple[str, Interval]]:
    """What an interrupted measurement has chosen, each with what was left; whole steps only."""
    for one in sorted(m.known.entries("cumulative"), key=lambda entry: entry.step):
        left = m.known.interval("cumulative.left", one.site, step=one.step)
        if left is None:
            return
        yield one.site, left


def pairs(m: Measurement) -> Iterator[Record]:
    """I(A) = Δ(A) − Σ Δ({l}) of pairs of the best layers, on the same draws.

    Limits hold for all pairs together: who looks at 28 pairs would else find one by chance.
    """
    best = m.best(m.search.pairs)
    family = list(combinations(best, 2))
    known = m.known.intervals("interaction")
    waiting = [pair for pair in family if AND.join(pair) not in known]
    if not waiting:
        return
    with m.clock.part("interactions"):
        alone = m.gains({path: m.variant([path]) for path in best})
    for first, second in waiting:
        name = AND.join((first, second))
        with m.clock.part("interactions"):
            together = m.gains({name: m.variant([first, second])})[name]
            found = (together - alone[first] - alone[second]).interval()
        yield from interval(name, "interaction", of_family(found, len(family), even=True))
