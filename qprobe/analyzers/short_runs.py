"""Does the remedy help a training? The same few steps with it and without it, then scored.

All runs begin at the weights under analysis and see the same batches with the same random numbers:
one with every layer as it is, and one for each remedy at its layer. Two are controls: the layer in
high precision, and every layer as it is under another seed, from weights moved by a ten-thousandth.
What two such runs are apart is what a training does by itself; a remedy has to do more.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from qprobe.analyzers.base import Continuation, Subject
from qprobe.analyzers.dequantization.evaluation import Bounds, Evaluation
from qprobe.analyzers.observation import generators, undisturbed
from qprobe.analyzers.remedies import in_force, under
from qprobe.analyzers.scores import MeanLoss
from qprobe.analyzers.short_run_findings import (
    FINISHED,
    LOSS,
    LOSS_GAIN,
    PROBE,
    SCORE_GAIN,
    TOTAL,
    findings,
)
from qprobe.analyzers.trials import AS_IS, INTENDED, SEED, Trial
from qprobe.analyzers.verification_findings import HIGH
from qprobe.errors import InputError
from qprobe.inference import Replicates
from qprobe.quant import recipe as named
from qprobe.quant import restored
from qprobe.quant.products import Setup, faithful
from qprobe.records.schema import Finding, Record

if TYPE_CHECKING:
    from qprobe.quant.layers import QuantizedLayer

#: By how much the weights of the other seed's run are moved; benign, as docs/concepts/faults.md.
_MOVED = 1e-4
#: What random numbers begin with, in all runs but the one under another seed.
_FIRST_SEED = 0
#: Steps that are run twice to see that the continuation is the same at every call.
_REHEARSED = 2
#: Equal steps may differ by the order of sums on some devices.
_EQUAL = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """What a run gave; replicates of negative loss and of score, unless a loss was not finite."""

    losses: tuple[float, ...]
    gains: tuple[Replicates, Replicates] | None


class ShortRuns:
    """Trains a subject for ``steps`` steps under each trial and compares what comes out.

    Trials of which ``known`` has the result are not run again.
    """

    name = PROBE
    reads = frozenset({PROBE})

    def __init__(self, trials: Sequence[Trial], steps: int, known: Sequence[Record] = ()) -> None:
        if steps < 1:
            raise InputError(f"a short run takes at least 1 step, got {steps}.")
        self.steps = steps
        done = {(one.site, one.key) for one in known if one.probe == PROBE}
        self._trials = tuple(
            one
            for one in dict.fromkeys((Trial(site="", remedy=SEED), *trials))
            if (one.site, FINISHED + one.remedy) not in done
        )

    def measure(self, subject: Subject) -> Iterator[Record]:
        """Run them all; the model is left as it was, to the bit."""
        train = subject.continuation
        if train is None:
            raise InputError(
                f"{subject.name} offers no continuation, so there is no training to go on with; "
                "see qprobe.Subject, or leave out --steps."
            )
        if not self._trials:
            return
        yield _record("", TOTAL, float((1 + len(self._trials)) * self.steps))
        with _from_here(subject.model, _FIRST_SEED):
            rehearsed = list(islice(train(subject.model, self.steps), _REHEARSED))
        as_is = yield from self._run(subject, train, Trial(site="", remedy=AS_IS))
        _check_same(subject, rehearsed, as_is.losses)
        yield _record("", FINISHED + AS_IS, _finished(as_is))
        for trial in self._trials:
            run = yield from self._run(subject, train, trial)
            yield from _compared(trial, run, as_is)

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        """Whether each remedy helps, beyond what another seed does."""
        return findings(records)

    def _run(
        self, subject: Subject, train: Continuation, trial: Trial
    ) -> Generator[Record, None, _Run]:
        """The losses of a run as they come, and what it gave."""
        model, losses = subject.model, list[float]()
        seed = _FIRST_SEED + (trial.remedy == SEED)
        with _applied(model, trial), _from_here(model, seed):
            if trial.remedy == SEED:
                _move(model)
            for loss in train(model, self.steps):
                losses.append(loss)
                yield _record(trial.site, LOSS + trial.remedy, loss, len(losses))
                if not math.isfinite(loss) or len(losses) == self.steps:
                    break
            if len(losses) < self.steps and all(map(math.isfinite, losses)):
                raise InputError(
                    f"the continuation of {subject.name} ended after {len(losses)} of "
                    f"{self.steps} steps; begin the data again where they end, or ask for fewer."
                )
            finite = math.isfinite(losses[-1])
            return _Run(losses=tuple(losses), gains=_judged(subject) if finite else None)


def _judged(subject: Subject) -> tuple[Replicates, Replicates]:
    """Negative loss and score of the model as it stands, of the same draws of the same groups."""
    subject.model.eval()
    loss, score = (
        Evaluation(judge, Bounds(replay=False))
        for judge in (replace(subject, score=MeanLoss(loss=subject.loss)), subject)
    )
    for one in (loss, score):
        one.evaluate_base()
    return loss.replicates(loss.base), score.replicates(score.base)


def _compared(trial: Trial, run: _Run, as_is: _Run) -> Iterator[Record]:
    """What a run gained over the run as it is, and last how far it came."""
    if run.gains is not None and as_is.gains is not None:
        for key, mine, theirs in zip((LOSS_GAIN, SCORE_GAIN), run.gains, as_is.gains, strict=True):
            found = (mine - theirs).interval()
            for part, value in (
                ("", found.estimate), (".low", found.low), (".high", found.high), (".n", found.n),
            ):  # fmt: skip
                yield _record(trial.site, f"{key}{trial.remedy}{part}", float(value))
    yield _record(trial.site, FINISHED + trial.remedy, _finished(run))


def _finished(run: _Run) -> float:
    """Steps with a finite loss."""
    return float(sum(map(math.isfinite, run.losses)))


def _applied(model: nn.Module, trial: Trial) -> AbstractContextManager[None]:
    """The remedy at its layer, on loan."""
    if trial.remedy in (AS_IS, SEED):
        return nullcontext()
    if trial.remedy == HIGH:
        return restored(model, [trial.site])
    module = cast("QuantizedLayer", model.get_submodule(trial.site))
    if trial.remedy == INTENDED:
        setup: Setup = module.setup
        return in_force({module: replace(setup, quantizer=faithful)})
    return in_force(under(named(trial.remedy), [module]))


@contextmanager
def _from_here(model: nn.Module, seed: int) -> Iterator[None]:
    """The model in training mode with seeded random numbers inside, and as it was after."""
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    weights = [parameter.detach().clone() for parameter in trained]
    with ExitStack() as stack:
        stack.enter_context(undisturbed(model))
        stack.callback(_put_back, list(trained.items()), weights)
        torch.manual_seed(seed)
        for generator in generators(model):
            generator.manual_seed(seed)
        model.train()
        yield


def _put_back(
    trained: Sequence[tuple[nn.Parameter, bool]], weights: Sequence[torch.Tensor]
) -> None:
    with torch.no_grad():
        for (parameter, wanted), value in zip(trained, weights, strict=True):
            parameter.copy_(value)
            parameter.requires_grad_(wanted)


@torch.no_grad()
def _move(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.mul_(1.0 + _MOVED * torch.randn_like(parameter))


def _check_same(subject: Subject, rehearsed: Sequence[float], losses: Sequence[float]) -> None:
    for step, (first, second) in enumerate(zip(rehearsed, losses, strict=False), start=1):
        if math.isfinite(first) and not abs(first - second) <= _EQUAL * abs(first):
            raise InputError(
                f"the continuation of {subject.name} is another one at every call (loss "
                f"{first:.6g}, then {second:.6g} at step {step}); give the same batches in the "
                "same order, the same optimizer state, and take random numbers from PyTorch."
            )


def _record(site: str, key: str, value: float, step: int = 0) -> Record:
    return Record("", step, site, "", PROBE, key, value)
