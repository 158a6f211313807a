"""One measurement on its way: the subject, its two ends, and what has been found so far."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from qprobe.analyzers.base import SlopedScore, Subject
from qprobe.analyzers.dequantization.clock import Clock
from qprobe.analyzers.dequantization.emit import Measured, interval, record
from qprobe.analyzers.dequantization.evaluation import Bounds, Evaluation, Judged
from qprobe.analyzers.dequantization.held import Held
from qprobe.analyzers.dequantization.layers import Layer, Variant, dequantized
from qprobe.analyzers.dequantization.search import Search
from qprobe.errors import InputError
from qprobe.inference import Interval, Replicates
from qprobe.quant import Restoring
from qprobe.records.schema import Record

#: Layers at which replay is compared with a plain run before it is trusted.
VERIFIED = 2
#: Samples that the comparison takes, and the share of the memory that may hold the data.
FEW = 4
DATA = 1 / 8


class Measurement:
    """What the stages of a measurement share."""

    def __init__(
        self,
        subject: Subject,
        layers: Mapping[str, Layer],
        asked: tuple[Search, Bounds],
        known: Measured,
    ) -> None:
        self.subject = replace(subject, batches=Held(subject.batches, int(asked[1].memory * DATA)))
        self.layers = layers
        self.restoring = Restoring(subject.model)
        self.search, self.bounds = asked
        self.known = known
        self.clock = Clock.of(subject.model)
        self.evaluation = Evaluation(self.subject, self.bounds)
        #: The score of the model in high precision and as it is; known after :meth:`verified_base`.
        self.high: Replicates
        self.quantized: Replicates
        #: Whether screen values are what the score gains, and not of the loss.
        self.sloped = isinstance(subject.score, SlopedScore)
        #: Screen values by layer, and their standard errors where they are gains.
        self.screen: dict[str, float] = dict(known.values("screen"))
        self.unsure: dict[str, float] = dict(known.values("screen.stderr"))
        #: Recoveries on all batches by layer.
        self.recovered: dict[str, Interval] = known.intervals("recovery")

    def base(self) -> Iterator[Record]:
        """M_fp, and how long one pass takes; a first batch is run once before, to warm up."""
        plain = Evaluation(
            self.subject, replace(self.bounds, replay=False), self.variant(self.layers)
        )
        with self.clock.part("warm-up"):
            for batch in islice(self.subject.batches(), 1):
                plain.run_once(self._first(batch, 1))
        with self.clock.part("base"):
            plain.evaluate_base()
        self.clock.unit = self.clock.seconds("base")
        with self.clock.part("base"):
            self.high = plain.replicates(plain.base)
        yield record("", "layers", len(self.layers))
        yield record("", "samples", sum(plain.sizes))
        yield from interval("", "score.high_precision", self.high.interval())

    def verified_base(self) -> Iterator[Record]:
        """M_q and the gap; what is known already has to be of the same scores."""
        with self.clock.part("base"):
            self.evaluation.evaluate_base()
            self.quantized = self.evaluation.replicates(self.evaluation.base)
            found = self.quantized.interval()
            gap = (self.high - self.quantized).interval()
        self._check_known(found)
        with self.clock.part("verify"):
            if self.bounds.replay:
                self._verify()
        yield from interval("", "score.quantized", found)
        yield from interval("", "gap", gap)

    def variant(self, paths: Collection[str]) -> Variant:
        """These layers in high precision."""
        return dequantized(self.restoring, [self.layers[path] for path in paths])

    def gains(self, variants: Mapping[str, Variant]) -> dict[str, Replicates]:
        """What each variant scores above the model as it is, on all batches."""
        judged = {name: Judged() for name in variants}
        self.evaluation.evaluate(variants, judged)
        return {
            name: self.evaluation.replicates(one) - self.quantized for name, one in judged.items()
        }

    def best(self, count: int) -> list[str]:
        """The layers that recover most, of those measured."""
        return sorted(self.recovered, key=lambda path: -self.recovered[path].estimate)[:count]

    def remaining_passes(self) -> float:
        """What base, screen and race may still take."""
        spent = self.clock.passes()
        used = sum(spent.get(part, 0.0) for part in ("warm-up", "base", "verify", "screen", "race"))
        return self.search.budget * len(self.layers) - used

    def _check_known(self, found: Interval) -> None:
        """Records of another model, recipe or data set would be silently wrong."""
        before = self.known.interval("score.quantized")
        if not self.known or before is None:
            return
        if (before.estimate, before.n) != (found.estimate, found.n):
            raise InputError(
                f"the records to go on from are of a score of {before.estimate:.6g} on "
                f"{before.n} groups, and {self.subject.name} scores {found.estimate:.6g} on "
                f"{found.n}; start anew."
            )

    def _first(self, batch: Any, samples: int) -> Any:
        """The first samples of a batch, or all where it cannot be divided."""
        some = self.subject.some
        return batch if some is None else some(batch, list(range(samples)))

    @torch.no_grad()
    def _verify(self) -> None:
        """Compare with plain runs on a few samples, where replay skips little and much.

        Early layers first: what their replay computes is then what a module further on would have
        left behind for a later layer, if modules talked past their outputs.
        """
        paths = list(self.layers)
        step = max(1, (len(paths) - 1) // max(1, VERIFIED - 1))
        chosen = paths[::step][:VERIFIED]
        few = min(FEW, self.evaluation.sizes[0])
        batch = self._first(next(iter(self.subject.batches())), few)
        wrong = self.evaluation.disagreement(batch, {path: self.variant([path]) for path in chosen})
        if wrong is not None:
            raise InputError(
                f"{self.subject.name} gives another output when it is run again on one batch with "
                f"{wrong!r} in high precision, so it draws random numbers or its modules share "
                "state; fix the draws, or measure with Bounds(replay=False) if runs repeat."
            )
