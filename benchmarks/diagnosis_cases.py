"""Models that were trained, defects planted in them at random, and whether a defect matters."""

import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from qprobe.analyzers.base import Floats, Subject
from qprobe.engine import Schedule, TrainConfig, reopen, train
from qprobe.engine.losses import bce_tversky_per_image
from qprobe.faults import KINDS, Planted, candidates, plant
from qprobe.inference import Interval, Resampling, bootstrap
from qprobe.quant import NVFP4, Gemm, QuantRecipe, QuantSpec, Rounding, convert
from qprobe.quant.layers import QuantizedLayer

ARCHITECTURES = ("cnn", "vit", "swin")
_RTN = QuantSpec(format=NVFP4)
_SR = QuantSpec(format=NVFP4, rounding=Rounding.STOCHASTIC)
WITH_ATTENTION = QuantRecipe(
    name="nvfp4-sr-attention",
    fprop=Gemm(a=_RTN, b=_RTN),
    dgrad=Gemm(a=_SR, b=_RTN),
    wgrad=Gemm(a=_SR, b=_RTN),
    attention=Gemm(a=_RTN, b=_RTN),
    summary="nvfp4-sr with the products of attention as well",
    reference="this benchmark",
)
#: Two recipes a model: one in blocks with stochastic rounding, one of integers.
RECIPES: dict[str, tuple[str | QuantRecipe, ...]] = {
    "cnn": ("nvfp4-sr", "int4-channel-token"),
    "vit": (WITH_ATTENTION, "int4-channel-token"),
    "swin": (WITH_ATTENTION, "int4-channel-token"),
}
BATCH = 8


class NegativeLoss:
    """The mean loss with its sign turned: the more, the better."""

    name = "negative_loss"

    def of(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Floats:
        losses = bce_tversky_per_image(output, batch[1]).double().cpu().numpy()
        return np.stack([losses, np.ones_like(losses)], axis=1)

    def reduce(self, totals: Floats) -> Floats:
        negative: Floats = -totals[:, 0] / totals[:, 1]
        return negative


@dataclass(frozen=True, kw_only=True, eq=False)
class Ward:
    """A trained model under one recipe, its data, and what is measured of it when it is well."""

    architecture: str
    model: nn.Module
    recipe: QuantRecipe
    batches: list[tuple[Tensor, Tensor]] = field(repr=False)

    @property
    def example(self) -> tuple[Tensor]:
        return (self.batches[0][0][:2],)

    def subject(self) -> Subject:
        return Subject(
            model=self.model,
            recipe=self.recipe,
            batches=lambda: self.batches,
            loss=lambda output, batch: bce_tversky_per_image(output, batch[1]),
            score=NegativeLoss(),
            name=f"{self.architecture} under {self.recipe.name}",
        )

    def high_precision(self) -> nn.Module:
        twin = copy.deepcopy(self.model)
        convert(twin, "bf16")
        return twin

    @torch.no_grad()
    def losses(self, model: nn.Module) -> Floats:
        parts = [bce_tversky_per_image(model(x), y) for x, y in self.batches]
        return torch.cat(parts).double().numpy()

    @cached_property
    def excess_when_well(self) -> Floats:
        return self.excess()

    def excess(self) -> Floats:
        """What the recipe costs each sample now, against high precision at the same weights."""
        return self.losses(self.model) - self.losses(self.high_precision())

    def fidelity(self, path: str | None) -> Floats:
        """Cosine and projection of each batch's gradient: ``[batches, 2]``.

        Of the weight of the layer ``path``, or of all parameters.
        """
        for module in self.model.modules():
            if isinstance(module, QuantizedLayer) and module.setup.generator is not None:
                module.setup.generator.manual_seed(0)
        exact = self.high_precision()
        rows = []
        for batch in self.batches:
            g, h = _gradient(exact, batch, path), _gradient(self.model, batch, path)
            dot = torch.dot(g, h)
            # A gradient of which nothing is left points nowhere: its cosine is 0, not undefined.
            norms = (g.norm() * h.norm()).clamp(min=torch.finfo(g.dtype).tiny)
            rows.append([float(dot / norms), float(dot / torch.dot(g, g))])
        self.model.zero_grad(set_to_none=True)
        return np.array(rows)


def _gradient(model: nn.Module, batch: tuple[Tensor, Tensor], path: str | None) -> Tensor:
    model.zero_grad(set_to_none=True)
    bce_tversky_per_image(model(batch[0]), batch[1]).mean().backward()
    parts = [
        parameter.grad.flatten().double()
        for name, parameter in model.named_parameters()
        if path is None or name == f"{path}.weight"
        if parameter.grad is not None
    ]
    return torch.cat(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One defect, benign change or healthy model, and whether it can be seen at all."""

    architecture: str
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


def trained(folder: Path, architecture: str, steps: int, samples: int) -> list[Ward]:
    """Train a tiny model once, and put copies of it under the recipes."""
    config = TrainConfig(
        arch=architecture,
        size="tiny",
        batch=16,
        lr=2e-3,
        schedule=Schedule.COSINE,
        warmup=min(20, steps - 1),
        clip=1.0,
        augment=False,
        steps=steps,
        validation=16,
        test=16,
    )
    train(config, folder / architecture, resume=True)
    bench = reopen(folder / architecture / "best.pt")
    batches = _batches(bench.validation, samples)
    wards = []
    for recipe in RECIPES[architecture]:
        model = copy.deepcopy(bench.model).eval()
        convert(model, recipe, generator=torch.Generator().manual_seed(0))
        layers = [module for module in model.modules() if isinstance(module, QuantizedLayer)]
        wards.append(
            Ward(architecture=architecture, model=model, recipe=layers[0].recipe, batches=batches)
        )
    return wards


def _batches(loader: Sequence[object], samples: int) -> list[tuple[Tensor, Tensor]]:
    loader.restart(0)  # type: ignore[attr-defined]
    images, masks = [], []
    for batch in loader:
        images.append(batch.image)  # type: ignore[attr-defined]
        masks.append(batch.mask.float())  # type: ignore[attr-defined]
    x, y = torch.cat(images)[:samples], torch.cat(masks)[:samples]
    return list(zip(x.split(BATCH), y.split(BATCH), strict=True))


def cases(wards: Sequence[Ward], per_kind: int, seed: int) -> Iterator[tuple[Ward, Case]]:
    """Plant every kind ``per_kind`` times in each model where it fits, at random sites.

    The model has the defect while the caller holds the case; the healthy models come first.
    """
    drawn = random.Random(seed)  # noqa: S311 - sites, not secrets
    for ward in wards:
        yield ward, _case(ward, "healthy", None, None)
    for ward in wards:
        for name, kind in KINDS.items():
            fitting = candidates(ward.model, name, ward.example)
            for number in range(per_kind if fitting else 0):
                # Strengths take turns, so that each is met equally often.
                site, strength = drawn.choice(fitting), kind.strengths[number % 3]
                planting = {"strength": strength, "seed": drawn.randrange(2**31)}
                probed = None if kind.benign or name == "dead-branch" else site
                well = _well(ward, name, probed)
                with plant(ward.model, name, site, example=ward.example, **planting) as planted:
                    yield ward, _case(ward, name, planted, _effect(ward, planted, probed, well))


def _well(ward: Ward, kind: str, path: str | None) -> Floats:
    return ward.fidelity(path) if KINDS[kind].gradient else ward.excess_when_well


def _effect(ward: Ward, planted: Planted, path: str | None, well: Floats) -> Interval | None:
    if planted.kind.benign:
        return None
    if not planted.kind.gradient:
        return _mean(ward.excess() - well)
    now = ward.fidelity(path)
    lost = [_mean(well[:, 0] - now[:, 0]), _mean(np.abs(now[:, 1] - 1) - np.abs(well[:, 1] - 1))]
    return max(lost, key=lambda interval: interval.low)


def _mean(values: Floats) -> Interval:
    rows = np.stack([values, np.ones_like(values)], axis=1)
    draws = Resampling(generator=np.random.default_rng(0))
    return bootstrap(rows, lambda totals: totals[:, 0] / totals[:, 1], draws)


def _case(ward: Ward, kind: str, planted: Planted | None, effect: Interval | None) -> Case:
    return Case(
        architecture=ward.architecture,
        recipe=ward.recipe.name,
        kind=kind,
        strength=0.0 if planted is None else planted.strength,
        seed=0 if planted is None else planted.seed,
        sites=() if planted is None else planted.sites,
        cause=None if planted is None else planted.cause,
        effect=effect,
    )
