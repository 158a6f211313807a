"""Defects planted at random in trained models, and whether a defect matters."""

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from diagnosis_models import Batch, Patient
from torch import Tensor, nn

from qprobe.analyzers.base import Floats, Subject
from qprobe.faults import KINDS, Kind, Planted, candidates, plant
from qprobe.inference import Interval, Resampling, bootstrap
from qprobe.quant import QuantRecipe, convert
from qprobe.quant.layers import QuantizedLayer


@dataclass(frozen=True, slots=True)
class NegativeLoss:
    """The mean loss with its sign turned: the more, the better."""

    patient: Patient
    name: str = "negative_loss"

    def of(self, output: Tensor, batch: Batch) -> Floats:
        losses = self.patient.losses(output, batch).double().cpu().numpy()
        return np.stack([losses, np.ones_like(losses)], axis=1)

    def reduce(self, totals: Floats) -> Floats:
        negative: Floats = -totals[:, 0] / totals[:, 1]
        return negative


@dataclass(frozen=True, kw_only=True, eq=False)
class Ward:
    """A trained model under one recipe, its data, and what is measured of it when it is well."""

    patient: Patient
    model: nn.Module
    recipe: QuantRecipe

    @classmethod
    def of(cls, patient: Patient, recipe: str | QuantRecipe) -> "Ward":
        model = copy.deepcopy(patient.model).eval()
        convert(model, recipe, generator=torch.Generator().manual_seed(0))
        layers = [module for module in model.modules() if isinstance(module, QuantizedLayer)]
        return cls(patient=patient, model=model, recipe=layers[0].recipe)

    @property
    def example(self) -> tuple[Tensor]:
        return (self.patient.batches[0][0][:2],)

    def subject(self) -> Subject:
        return Subject(
            model=self.model,
            recipe=self.recipe,
            batches=lambda: self.patient.batches,
            loss=self.patient.losses,
            score=NegativeLoss(self.patient),
            forward=self.patient.forward,
            name=f"{self.patient.family} under {self.recipe.name}",
        )

    def high_precision(self) -> nn.Module:
        twin = copy.deepcopy(self.model)
        convert(twin, "bf16")
        return twin

    @torch.no_grad()
    def losses(self, model: nn.Module) -> Floats:
        of = self.patient
        parts = [of.losses(of.forward(model, batch), batch) for batch in of.batches]
        return torch.cat(parts).double().numpy()

    @cached_property
    def losses_when_well(self) -> Floats:
        return self.losses(self.model)

    @cached_property
    def exact_losses_when_well(self) -> Floats:
        return self.losses(self.high_precision())

    def excess(self, kind: Kind) -> Floats:
        """By how much the recipe costs each sample more than in the healthy model.

        A cost is against high precision at the same weights, which most defects leave as it was.
        """
        more = self.losses(self.model) - self.losses_when_well
        if not kind.preserves:
            more -= self.losses(self.high_precision()) - self.exact_losses_when_well
        return more

    def gradients(self, model: nn.Module) -> list[dict[str, Tensor]]:
        """The gradient of each batch by parameter; stochastic rounding starts over."""
        for module in model.modules():
            if isinstance(module, QuantizedLayer) and module.setup.generator is not None:
                module.setup.generator.manual_seed(0)
        found = []
        for batch in self.patient.batches:
            model.zero_grad(set_to_none=True)
            losses = self.patient.losses(self.patient.forward(model, batch), batch)
            losses.mean().backward()
            named = [(name, p.grad) for name, p in model.named_parameters()]
            found.append({name: grad for name, grad in named if grad is not None})
        model.zero_grad(set_to_none=True)
        return found

    @cached_property
    def exact_gradients_when_well(self) -> list[dict[str, Tensor]]:
        return self.gradients(self.high_precision())

    @cached_property
    def gradients_when_well(self) -> list[dict[str, Tensor]]:
        return self.gradients(self.model)

    def fidelity(self, gradients: Sequence[Mapping[str, Tensor]], path: str | None) -> Floats:
        """Cosine and projection of each batch's gradient to that of the healthy model in high
        precision: ``[batches, 2]``; of the weight of the layer ``path``, or of all parameters.
        """
        rows = []
        for exact, mine in zip(self.exact_gradients_when_well, gradients, strict=True):
            names = exact if path is None else [f"{path}.weight"]
            g = torch.cat([exact[name].flatten().double() for name in names])
            h = torch.cat([mine[name].flatten().double() for name in names])
            dot = torch.dot(g, h)
            # A gradient of which nothing is left points nowhere: its cosine is 0, not undefined.
            norms = (g.norm() * h.norm()).clamp(min=torch.finfo(g.dtype).tiny)
            rows.append([float(dot / norms), float(dot / torch.dot(g, g))])
        return np.array(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One defect, benign change or healthy model, and whether it can be seen at all."""

    family: str
    recipe: str
    kind: str
    strength: float
    seed: int
    sites: tuple[str, ...]
    cause: str | None
    #: What it does to the loss, or (gradients) to cosine or projection.
    effect: Interval | None

    @property
    def detectable(self) -> bool:
        """Whether a defect moves what it harms beyond its 95 % interval."""
        return self.cause is not None and self.effect is not None and self.effect.low > 0

    @property
    def well(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.cause is None


@dataclass(frozen=True, slots=True)
class Count:
    """How often each kind is planted in each model."""

    defects: int
    benign: int


def cases(wards: Sequence[Ward], count: Count, seed: int) -> Iterator[tuple[Ward, Case]]:
    """Plant every kind in each model where it fits, at random sites.

    The model has the defect while the caller holds the case; the healthy models come first.
    """
    drawn = random.Random(seed)  # noqa: S311 - sites, not secrets
    for ward in wards:
        yield ward, _case(ward, "healthy", None, None)
    for ward in wards:
        for name, kind in KINDS.items():
            fitting = candidates(ward.model, name, ward.example)
            often = count.benign if kind.benign else count.defects
            for number in range(often if fitting else 0):
                # Strengths take turns, so that each is met equally often.
                site, strength = drawn.choice(fitting), kind.strengths[number % 3]
                planting = {"strength": strength, "seed": drawn.randrange(2**31)}
                _look_at(ward, kind)
                with plant(ward.model, name, site, example=ward.example, **planting) as planted:
                    yield ward, _case(ward, name, planted, _effect(ward, planted, site))


def _look_at(ward: Ward, kind: Kind) -> None:
    """Measure the healthy model, before there is anything in it."""
    if kind.gradient and not kind.benign:
        _ = ward.exact_gradients_when_well, ward.gradients_when_well
    elif not kind.benign:
        _ = ward.exact_losses_when_well, ward.losses_when_well


def _effect(ward: Ward, planted: Planted, site: str) -> Interval | None:
    if planted.kind.benign:
        return None
    if not planted.kind.gradient:
        return _mean(ward.excess(planted.kind))
    path = None if planted.kind.name == "dead-branch" else site
    well = ward.fidelity(ward.gradients_when_well, path)
    now = ward.fidelity(ward.gradients(ward.model), path)
    lost = [_mean(well[:, 0] - now[:, 0]), _mean(np.abs(now[:, 1] - 1) - np.abs(well[:, 1] - 1))]
    return max(lost, key=lambda interval: interval.low)


def _mean(values: Floats) -> Interval:
    rows = np.stack([values, np.ones_like(values)], axis=1)
    draws = Resampling(generator=np.random.default_rng(0))
    return bootstrap(rows, lambda totals: totals[:, 0] / totals[:, 1], draws)


def _case(ward: Ward, kind: str, planted: Planted | None, effect: Interval | None) -> Case:
    return Case(
        family=ward.patient.family,
        recipe=ward.recipe.name,
        kind=kind,
        strength=0.0 if planted is None else planted.strength,
        seed=0 if planted is None else planted.seed,
        sites=() if planted is None else planted.sites,
        cause=None if planted is None else planted.cause,
        effect=effect,
    )
