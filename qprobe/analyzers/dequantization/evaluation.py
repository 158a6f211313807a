"""Scores of variants of one model on the same batches, with what can be replayed replayed."""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qprobe.analyzers.base import Subject
from qprobe.analyzers.dequantization.layers import Variant
from qprobe.analyzers.dequantization.replay import Recording, Replay
from qprobe.errors import InputError
from qprobe.inference import Method, Replicates, Resampling, replicate

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much may be used and how much is drawn."""

    #: Bytes for outputs to be replayed: half for the batch at hand, half for batches that wait.
    #: Data that fit an eighth of it are kept besides, so that batches are made once.
    memory: int = 2**30
    #: Draws of the bootstrap, and the seed that pairs them.
    draws: int = 1000
    seed: int = 0
    level: float = 0.95
    #: Whether outputs are replayed at all.
    replay: bool = True


@dataclass(slots=True, eq=False)
class Judged:
    """Statistics of one variant over the first batches."""

    parts: list[Floats] = field(default_factory=list)

    @property
    def batches(self) -> int:
        """How many batches it has seen."""
        return len(self.parts)

    def statistics(self, batches: int | None = None) -> Floats:
        """Of the first ``batches``, or all that were seen: ``[samples, ...]``."""
        return np.concatenate(self.parts[:batches])


class Evaluation:
    """Evaluates variants of a subject's model; inside :meth:`opened` only.

    The base is the model as it is, or as ``base`` makes it. Of each batch one pass of the base is
    recorded and, as far as the bound on memory allows, kept for the next round of variants.
    """

    def __init__(self, subject: Subject, bounds: Bounds, base: Variant | None = None) -> None:
        self.subject = subject
        self.bounds = bounds
        self._as_base = nullcontext if base is None else base.applied
        self.base = Judged()
        self.groups: list[Hashable] = []
        #: The samples of each batch.
        self.sizes: list[int] = []
        #: What share of a pass is computed again when a module changes, as far as is known.
        self.again: Mapping[str, float] = {}
        self._replay = Replay(subject.model, bounds.memory // 2)
        self._kept: dict[int, Recording] = {}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Wrap the model inside."""
        with ExitStack() as stack:
            if self.bounds.replay:
                stack.enter_context(self._replay.attached())
            try:
                yield
            finally:
                self._kept.clear()

    @torch.no_grad()
    def evaluate_base(self, stop: int | None = None) -> None:
        """Run and record the base on all batches; tells how many samples and groups there are."""
        self.base, self.groups, self.sizes = Judged(), [], []
        for number, batch in enumerate(islice(self.subject.batches(), stop)):
            if self.bounds.replay:
                recording = self._recording(number, batch)
                output, self.again = recording.output, recording.again
            else:
                with self._as_base():
                    output = self._run(batch)
            statistics = self._score(output, batch)
            self.base.parts.append(statistics)
            self.sizes.append(len(statistics))
            self.groups += self._groups(batch, len(statistics))
        if not self.groups:
            raise InputError("batches() of the subject gave no batch; give it validation data.")

    @torch.no_grad()
    def run_once(self, batch: Any) -> None:
        """Run the base on one batch for nothing but to warm up."""
        with self._as_base():
            self._run(batch)

    @torch.no_grad()
    def evaluate(
        self, variants: Mapping[str, Variant], into: Mapping[str, Judged], stop: int | None = None
    ) -> None:
        """Run variants on the batches that they have not seen, up to batch ``stop``.

        ``into`` collects their statistics by the same names; all have seen the same batches.
        """
        start = min((into[name].batches for name in variants), default=0)
        stop = len(self.sizes) if stop is None else stop
        batches = islice(enumerate(self.subject.batches()), start, stop)
        for number, batch in batches:
            recording = self._recording(number, batch) if self.bounds.replay else None
            for name, variant in variants.items():
                with variant.applied():
                    output = self._output(recording, variant, batch)
                into[name].parts.append(self._score(output, batch))

    def replicates(self, judged: Judged, batches: int | None = None, draws: int = 0) -> Replicates:
        """The bootstrap of what a variant has seen; all have the same draws."""
        bounds = self.bounds
        resampling = Resampling(
            generator=np.random.default_rng(bounds.seed),
            draws=draws or bounds.draws,
            level=bounds.level,
            method=Method.PERCENTILE if draws else Method.BCA,
        )
        statistics = judged.statistics(batches)
        groups = self.groups[: len(statistics)]
        return replicate(statistics, self.subject.score.reduce, resampling, groups)

    def score(self, judged: Judged, batches: int) -> float | None:
        """The score of the first ``batches`` alone; None where they leave it undefined."""
        return self._reduced(judged.statistics(batches).sum(0, keepdims=True))

    def score_of_all(self, judged: Judged, batches: int) -> float | None:
        """The score where the first ``batches`` are a variant's and the rest is the base's."""
        known = [judged.statistics(batches)]
        if batches < len(self.sizes):
            known.append(np.concatenate(self.base.parts[batches:]))
        return self._reduced(np.concatenate(known).sum(0, keepdims=True))

    def _reduced(self, total: Floats) -> float | None:
        found = np.ma.masked_array(self.subject.score.reduce(total), dtype=np.float64)
        return None if np.ma.getmaskarray(found).any() else float(found[0])

    @torch.no_grad()
    def disagreement(self, batch: Any, variants: Mapping[str, Variant]) -> str | None:
        """The first variant whose replay on a batch is not what a plain run gives."""
        with self._as_base():
            recording = self._replay.record(partial(self._run, batch))
        for name, variant in variants.items():
            with variant.applied():
                replayed = self._output(recording, variant, batch)
                if not torch.equal(replayed, self._run(batch)):
                    return name
        return None

    def _output(self, recording: Recording | None, variant: Variant, batch: Any) -> Tensor:
        run = partial(self._run, batch)
        return run() if recording is None else self._replay.replay(recording, variant.changed, run)

    def _recording(self, number: int, batch: Any) -> Recording:
        if number in self._kept:
            return self._kept[number]
        with self._as_base():
            recording = self._replay.record(partial(self._run, batch))
        held = sum(one.bytes for one in self._kept.values())
        if held + recording.bytes <= self.bounds.memory // 2:
            self._kept[number] = recording
        return recording

    def _run(self, batch: Any) -> Tensor:
        return self.subject.forward(self.subject.model, batch)

    def _score(self, output: Tensor, batch: Any) -> Floats:
        statistics = np.asarray(self.subject.score.of(output, batch), dtype=np.float64)
        if not np.isfinite(statistics).all():
            raise InputError(
                f"the score {self.subject.score.name!r} is not finite on a batch; look for the "
                "first layer with a non-finite output before asking which one to dequantize."
            )
        return statistics

    def _groups(self, batch: Any, samples: int) -> list[Hashable]:
        if self.subject.groups is None:
            return list(range(len(self.groups), len(self.groups) + samples))
        found: list[Hashable] = list(self.subject.groups(batch))
        if len(found) != samples:
            raise InputError(
                f"the score gave statistics of {samples} samples and groups named {len(found)}."
            )
        return found
