"""Does the remedy help? Each is applied to one layer alone, scored, and taken away again.

The score under a remedy and the score as it is are of the same batches and the same draws of the
bootstrap, so what is reported is the difference and its interval. The layer in high precision is
measured beside it: no remedy within the format can be expected to do more.

What an evaluation cannot see, the products of the backward pass, is judged by the share of the
first-order decrease of the loss that they lose, before and after.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from qprobe.analyzers.base import Subject
from qprobe.analyzers.dequantization.emit import Measured as Dequantized
from qprobe.analyzers.dequantization.emit import interval
from qprobe.analyzers.dequantization.evaluation import Bounds, Evaluation, Judged
from qprobe.analyzers.dequantization.gradients import attribution
from qprobe.analyzers.dequantization.layers import (
    Layer,
    Variant,
    dequantized,
    evaluating,
    quantized_layers,
)
from qprobe.analyzers.dequantization.measurement import Measurement
from qprobe.analyzers.dequantization.search import Search
from qprobe.analyzers.remedies import for_training, in_force, prepared, under
from qprobe.analyzers.verification_findings import HIGH, LOST, PROBE, RECOVERY, findings
from qprobe.errors import InputError
from qprobe.inference import Replicates
from qprobe.quant import Gemm, QuantRecipe, Restoring
from qprobe.quant.layers import QuantizedLayer
from qprobe.quant.ptq import input_amax
from qprobe.quant.remembering import remembering
from qprobe.records.schema import Finding, Record

if TYPE_CHECKING:
    from qprobe.quant.products import Setup


class Verification:
    """Measures what remedies recover at layers that were found guilty.

    ``sites`` are layers whose forward product costs score, ``trained`` those whose backward
    products lose some of the decrease of the loss.
    """

    name = PROBE
    reads = frozenset({PROBE})

    def __init__(
        self,
        sites: Sequence[str] = (),
        trained: Sequence[str] = (),
        bounds: Bounds | None = None,
        seed: int = 0,
    ) -> None:
        self.sites = tuple(dict.fromkeys(sites))
        self.trained = tuple(dict.fromkeys(trained))
        self.bounds = bounds or Bounds()
        self.seed = seed

    def measure(self, subject: Subject) -> Iterator[Record]:
        """Run the model under every remedy; it is left as it was, to the bit."""
        layers = quantized_layers(subject.model)
        for path in (*self.sites, *self.trained):
            if path not in layers:
                raise InputError(
                    f"{path!r} is no quantized layer of {subject.name}; choose among "
                    f"{', '.join(list(layers)[:6])}."
                )
        weighted = [path for path in self.sites if layers[path].weighted]
        if self.sites:
            yield from self._scored(subject, layers, weighted)
        if self.trained:
            yield from self._trained(subject, layers)

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        """The best remedy of each layer, and those that do not help."""
        return findings(records)

    def _scored(
        self, subject: Subject, layers: Mapping[str, Layer], weighted: Sequence[str]
    ) -> Iterator[Record]:
        evaluation = Evaluation(subject, self.bounds)
        others = [one.module for path, one in layers.items() if path not in self.sites]
        with evaluating(subject.model), remembering(others):
            amax = input_amax(subject.model, weighted, partial(_run, subject)) if weighted else {}
            with evaluation.opened():
                evaluation.evaluate_base()
                base = evaluation.replicates(evaluation.base)
                yield from interval_of("", "score.quantized", base)
                for path in self.sites:
                    yield from self._site(evaluation, base, layers[path], amax.get(path))

    def _site(
        self, evaluation: Evaluation, base: Replicates, layer: Layer, amax: Tensor | None
    ) -> Iterator[Record]:
        """Every remedy of one layer on all batches."""
        model, path = evaluation.subject.model, layer.path
        variants = {HIGH: dequantized(Restoring(model), [layer])}
        impossible: Mapping[str, str] = {}
        with ExitStack() as stack:
            if amax is not None:
                setups, impossible = stack.enter_context(prepared(model, path, amax))
                for name, setup in setups.items():
                    applied = partial(in_force, {layer.module: setup})
                    variants[name] = Variant(changed=(path,), applied=applied)
            judged = {name: Judged() for name in variants}
            evaluation.evaluate(variants, judged)
        for name, one in judged.items():
            gain = evaluation.replicates(one) - base
            yield from interval_of(path, f"{RECOVERY}{name}", gain)
        for name in impossible:
            yield Record("", 0, path, "", PROBE, f"impossible.{name}", 1.0)

    def _trained(self, subject: Subject, layers: Mapping[str, Layer]) -> Iterator[Record]:
        """The lost decrease of the guilty layers as they are and under each other recipe."""
        modules = {
            path: one.module
            for path, one in layers.items()
            if isinstance(one.module, QuantizedLayer)
        }
        guilty = [module for path, module in modules.items() if path in self.trained]
        if not guilty:
            return
        # Products of the others are not asked for, and so not computed.
        quiet: dict[nn.Module, Setup] = {
            module: replace(module.setup, recipe=_without_backward(module.recipe))
            for path, module in modules.items()
            if path not in self.trained
        }
        own = guilty[0].recipe
        for recipe in (own, *for_training(own)):
            chosen = {} if recipe is own else under(recipe, guilty)
            with evaluating(subject.model), in_force({**quiet, **chosen}):
                asked = (Search(seed=self.seed), self.bounds)
                measured = Measurement(subject, layers, asked, Dequantized(()))
                for one in attribution(measured):
                    key = one.key.replace("lost_decrease", f"{LOST}{recipe.name}")
                    yield Record("", 0, one.site, one.role, PROBE, key, one.value)


def interval_of(site: str, key: str, found: Replicates) -> Iterator[Record]:
    """An interval of replicates, as records of this analyzer."""
    for one in interval(site, key, found.interval()):
        yield Record("", 0, one.site, one.role, PROBE, one.key, one.value)


def _without_backward(recipe: QuantRecipe) -> QuantRecipe:
    return replace(recipe, dgrad=Gemm(), wgrad=Gemm())


def _run(subject: Subject) -> None:
    for batch in subject.batches():
        subject.forward(subject.model, batch)
