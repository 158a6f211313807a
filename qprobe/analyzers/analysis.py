"""One analysis: asks the analyzers in turn, writes what they measure, and reads what it says.

Everything goes into the run file as it comes, so an analysis that was interrupted goes on where it
was: who has finished is not asked again, and who can use half of its records is given them.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

from torch import nn

from qprobe.analyzers import depth as depths
from qprobe.analyzers.base import (
    ActiveAnalyzer,
    Analyzer,
    CheckpointAnalyzer,
    Subject,
    Trained,
    TrainingsAnalyzer,
)
from qprobe.analyzers.depth import RESUMABLE, Depth
from qprobe.analyzers.diagnosis import ranked
from qprobe.analyzers.observation import observe
from qprobe.analyzers.short_run_findings import findings as short_runs
from qprobe.analyzers.short_runs import ShortRuns
from qprobe.analyzers.suspects import suspects, without_loss
from qprobe.analyzers.trials import trials
from qprobe.analyzers.verification import Verification
from qprobe.checkpoints import Checkpoint
from qprobe.errors import InputError
from qprobe.quant.layers import QuantizedLayer
from qprobe.records.schema import Array, Finding, Record
from qprobe.records.writer import RunWriter

#: The probe under which an analysis files what it says of itself.
PROBE = "analysis"
DONE, MISSED = "done", "not_measured."
#: Elements of all parameters of the model, whether a recipe quantizes them or not.
PARAMETERS = "parameters"
#: The stage in which the probes run that passive analyzers read.
OBSERVATION = "observation"
#: Seconds between two flushes: what a sudden death may cost.
_FLUSH_S = 1.0

Measured = Iterable[Record | Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What is analyzed: a model with data, stored weights, or both."""

    subject: Subject | None = None
    checkpoint: Checkpoint | None = None
    #: Finished trainings to be compared.
    trainings: Sequence[Trained] = ()
    #: What the analysis would need and was not given, and what would give it.
    lacking: str = "there is no data to run the model on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked."""

    depth: Depth = Depth.NORMAL
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    verify: bool = False
    #: Layers whose remedies are verified at most.
    verified: int = 5
    #: Steps of the short runs by which remedies of a training are verified; None: no such run.
    steps: int | None = None

    def check(self) -> None:
        """Refuse what contradicts itself, before anything is measured."""
        depths.chosen(self.depth, self.only, self.skip)
        if self.verify and self.depth is Depth.QUICK:
            raise InputError(
                "--quick measures no layer whose remedies --verify could try; leave out one of "
                "them."
            )


class Watcher:
    """Sees how far an analysis is; override what you need."""

    def stages(self, names: Sequence[str]) -> None:
        """What is going to be done, in order."""

    def stage(self, name: str) -> None:
        """``name`` begins."""

    def seen(self, one: Record | Array) -> None:
        """Something was measured."""


@dataclass(kw_only=True, eq=False)
class Analysis:
    """An analysis of some inputs into a run file."""

    inputs: Inputs
    request: Request
    writer: RunWriter
    #: Records that the file holds already.
    known: Sequence[Record] = ()
    watcher: Watcher = field(default_factory=Watcher)

    def __post_init__(self) -> None:
        self._records: dict[tuple[object, int], Record] = {
            (one.column, one.step): one for one in self.known
        }
        self._flushed_s = time.monotonic()

    def run(self) -> list[Finding]:
        """Ask everyone, and write and return what was found, the gravest first."""
        asked, left = depths.chosen(self.request.depth, self.request.only, self.request.skip)
        for name, reason in left.items():  # no option gives what an analyzer has nothing to ask of
            if reason not in depths.AS_ASKED:
                left[name] = self._lacks(depths.made(name, self.request.depth, ())) or reason
        analyzers, stages = self._stages(asked, left)
        if not analyzers:
            why = _reasons(left) or "no analyzer is registered, so install qprobe again"
            raise InputError(f"nothing is left to analyze: {why}.")
        names = [*stages, *self._later()]
        self._names = names
        self.watcher.stages(names)
        self._sizes()
        for name, measure in stages.items():
            self._measure(name, measure)
        raw = self._findings(analyzers)
        verified = self._verified(raw) if self._verifies else []
        for name, reason in left.items():
            self._take(Record("", 0, name, "", PROBE, MISSED + reason, 1.0))
        found = without_loss(ranked(raw), list(self._records.values())) + verified
        self.writer.findings(found)
        return found

    @property
    def _verifies(self) -> bool:
        return self.request.verify and self.inputs.subject is not None

    def _later(self) -> list[str]:
        """The stages that follow from what was found."""
        if not self._verifies:
            return []
        return [Verification.name, *([ShortRuns.name] if self.request.steps is not None else [])]

    def _stages(
        self, asked: Sequence[str], left: dict[str, str]
    ) -> tuple[list[Analyzer], dict[str, Callable[[], Measured]]]:
        """Who can answer, and what has to be measured for them; who cannot goes to ``left``."""
        analyzers: list[Analyzer] = []
        stages: dict[str, Callable[[], Measured]] = {}
        passive: list[Analyzer] = []
        for name in asked:
            one = depths.made(name, self.request.depth, list(self.known))
            lacking = self._lacks(one)
            if lacking is None:
                analyzers.append(one)
                measure = self._measurement(one)
                if measure is None:
                    passive.append(one)
                else:
                    stages[name] = measure
            # What is asked of several trainings is no question that one model leaves open.
            elif not isinstance(one, TrainingsAnalyzer) or name in self.request.only:
                left[name] = lacking
        subject = self.inputs.subject
        if passive and subject is not None:
            reads = frozenset(chain.from_iterable(one.reads for one in passive))
            stages[OBSERVATION] = lambda: self._observed(subject, reads)
        return analyzers, stages

    def _lacks(self, one: Analyzer) -> str | None:
        """What an analyzer would need and was not given."""
        inputs = self.inputs
        if isinstance(one, TrainingsAnalyzer):
            return None if inputs.trainings else "no folder of trainings was given"
        if isinstance(one, CheckpointAnalyzer):
            return None if inputs.checkpoint is not None else "no file of weights was given"
        return None if inputs.subject is not None else inputs.lacking

    def _measurement(self, one: Analyzer) -> Callable[[], Measured] | None:
        """How an analyzer measures; None where it only reads what probes measured."""
        inputs = self.inputs
        if isinstance(one, TrainingsAnalyzer):
            return partial(one.measure_trainings, inputs.trainings)
        if isinstance(one, CheckpointAnalyzer) and inputs.checkpoint is not None:
            return partial(one.measure_checkpoint, inputs.checkpoint)
        if isinstance(one, ActiveAnalyzer) and inputs.subject is not None:
            return partial(one.measure, inputs.subject)
        return None

    def _observed(self, subject: Subject, reads: Iterable[str]) -> Measured:
        seen = observe(subject, reads)
        yield from seen.records
        yield from seen.arrays
        for reason in seen.not_measured:
            yield Record("", 0, OBSERVATION, "", PROBE, MISSED + reason, 1.0)

    def _measure(self, name: str, measure: Callable[[], Measured]) -> None:
        """One stage, unless the file says that it is done."""
        self.watcher.stage(name)
        done = Record("", 0, name, "", PROBE, DONE, 1.0)
        if (done.column, 0) in self._records:
            return
        try:
            # Half of what most analyzers measure says nothing: it is written when it is whole.
            seen = self._watched(measure())
            for one in seen if name in RESUMABLE else list(seen):
                self._take(one)
        except InputError as error:
            if len(self._names) == 1:
                raise
            self._take(Record("", 0, name, "", PROBE, MISSED + str(error).rstrip("."), 1.0))
            return
        self._take(done)
        self.writer.flush()

    def _watched(self, found: Measured) -> Iterator[Record | Array]:
        for one in found:
            self.watcher.seen(one)
            yield one

    def _take(self, one: Record | Array) -> None:
        """Into the file, unless it is there."""
        if isinstance(one, Array):
            self.writer.arrays([one])
        elif (one.column, one.step) not in self._records:
            self._records[one.column, one.step] = one
            self.writer.emit([Record("", one.step, *one.column, one.value)])
        if time.monotonic() - self._flushed_s > _FLUSH_S:
            self.writer.flush()
            self._flushed_s = time.monotonic()

    def _findings(self, analyzers: Sequence[Analyzer]) -> list[Finding]:
        records = list(self._records.values())
        return [finding for one in analyzers for finding in one.analyze(records)]

    def _verified(self, found: Sequence[Finding]) -> list[Finding]:
        """Try the remedies where the findings point."""
        subject = self.inputs.subject
        assert subject is not None  # noqa: S101  (the one caller has looked)
        sites, trained, beyond = suspects(found, subject.model, self.request.verified)
        verification = Verification(sites, trained)
        if sites or trained:
            self._measure("verification", lambda: verification.measure(subject))
        if beyond:
            reason = f"remedies of {', '.join(beyond)}: only the gravest {len(sites)} are tried"
            self._take(Record("", 0, "verification", "", PROBE, MISSED + reason, 1.0))
        if self.request.steps is not None:
            self._train(subject, (*trained, *sites), found)
        records = list(self._records.values())
        return [*verification.analyze(records), *short_runs(records)]

    def _train(self, subject: Subject, sites: Sequence[str], found: Sequence[Finding]) -> None:
        """A few steps with the remedy of each layer that was found guilty."""
        records = list(self._records.values())
        chosen = trials(sites[: self.request.verified], found, records)
        runs = ShortRuns(chosen, self.request.steps or 0, known=records)
        if chosen:
            self._measure(ShortRuns.name, lambda: runs.measure(subject))
        else:
            reason = "no layer is suspected, so there is no remedy to train with"
            self._take(Record("", 0, ShortRuns.name, "", PROBE, MISSED + reason, 1.0))

    def _sizes(self) -> None:
        """Parameters of the model, and of every layer under a recipe: what a plan weighs."""
        subject = self.inputs.subject
        if subject is None:
            return
        whole = sum(one.numel() for one in subject.model.parameters())
        self._take(Record("", 0, "", "", PROBE, PARAMETERS, float(whole)))
        for path, module in subject.model.named_modules():
            if isinstance(module, QuantizedLayer):
                size = float(_elements(module))
                self._take(Record("", 0, path, "", "dequantization", "parameters", size))


def not_measured(records: Iterable[Record]) -> list[tuple[str, str]]:
    """What an analysis says that it did not do, and why."""
    return [
        (one.site, one.key.removeprefix(MISSED))
        for one in records
        if one.probe == PROBE and one.key.startswith(MISSED)
    ]


def _elements(module: nn.Module) -> int:
    return module.get_parameter("weight").numel()


def _reasons(left: Mapping[str, str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, reason in left.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())
