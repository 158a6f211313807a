"""Trained models with more than 40 quantized layers, and faults in them.

A fault is planted in a trained model without changing what it computes in high precision: one layer
at three bits, or one channel in front of a layer made large by the norm before it and small again
by the layer's weight.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import torch
from torch import nn

from qprobe.analyzers.base import Subject
from qprobe.engine.config import Schedule, TrainConfig
from qprobe.engine.data import Loader, LoaderConfig
from qprobe.engine.evaluation import training_loss
from qprobe.engine.subject import subject_of
from qprobe.engine.workbench import Workbench, prepare
from qprobe.quant import override

STEPS = 600
ARCHS = ("swin", "vit")
#: A toy with images of 64 tokens, and the study's models of half a million parameters with 256.
SIZES: Mapping[str, tuple[int, Mapping[str, int]]] = {"tiny": (8, {"depth": 10}), "500k": (4, {})}
#: Images evaluated together, more than are trained together.
EVALUATED = 48
#: How much larger an outlier channel is than it was.
OUTLIER = 24.0
#: The same model in blocks of 16 with three bits has no format; integers have.
WEAK = "int3-tensor"


@dataclass(frozen=True, slots=True)
class Case:
    """One question to every method: which layers of this model cost most under this recipe?"""

    arch: str
    size: str
    recipe: str
    fault: str = "natural"
    seed: int = 0

    def __str__(self) -> str:
        what = f"{self.arch} {self.size} {self.recipe} {self.fault}"
        return f"{what} {self.seed}" if self.seed else what


def cases(count: int) -> list[Case]:
    """``count`` cases, natural ones first, models and faults in turn."""
    natural = [
        Case(arch, size, recipe)
        for recipe in ("int4-tensor", "int4-channel-token", "nvfp4")
        for size in SIZES
        for arch in ARCHS
    ]
    planted = [
        Case(arch, size, recipe, fault, seed)
        for seed in range(1, 1 + count)
        for recipe, fault in (
            ("nvfp4", "3 bits"),
            ("int4-tensor", "outlier"),
            ("int4-channel-token", "3 bits"),
            ("nvfp4", "outlier"),
        )
        for size in SIZES
        for arch in ARCHS
    ]
    return [*natural, *planted][:count]


#: Where trained weights are kept; None: nowhere.
_folder: Path | None = None


def keep_trained(folder: Path) -> None:
    """Train each model once, and from then on take its weights from ``folder``."""
    global _folder  # noqa: PLW0603  (an option of the command)
    _folder = folder


@cache
def trained(arch: str, size: str, steps: int) -> Workbench:
    """A model of ten blocks after a short training on generated scans."""
    patch, options = SIZES[size]
    config = TrainConfig(
        arch=arch,
        size=size,
        patch=patch,
        model=tuple(options.items()),
        data_options=(("patients", 84), ("channels", 1)),
        validation=16,
        test=4,
        batch=16,
        device="cpu",
        steps=steps,
        optimizer="adamw",
        lr=3e-3,
        schedule=Schedule.COSINE,
        clip=1.0,
        warmup=min(20, steps // 2),
    )
    bench = prepare(config)
    path = None if _folder is None else _folder / f"{arch}-{size}-{steps}.pt"
    if path is not None and path.is_file():
        bench.model.load_state_dict(torch.load(path, weights_only=True))
    else:
        _train(bench, steps)
        if path is not None:
            torch.save(bench.model.state_dict(), path)
    bench.model.eval()
    validation = bench.validation
    everything = validation.order(0)
    bench.validation = Loader(validation.dataset, everything, LoaderConfig(batch=EVALUATED))
    return bench


def _train(bench: Workbench, steps: int) -> None:
    bench.model.train()
    done = 0
    while done < steps:
        bench.train.restart(done)
        for batch in bench.train:
            bench.optimizer.zero_grad()
            training_loss(bench.model(batch.image), batch.mask).backward()
            nn.utils.clip_grad_norm_(bench.model.parameters(), 1.0)
            bench.optimizer.step()
            bench.schedule.step()
            done += 1
            if done == steps:
                break


def subject(case: Case, steps: int) -> Subject:
    """The case's model under its recipe, all layers quantized, with its fault."""
    bench = copy.copy(trained(case.arch, case.size, steps))
    bench.model = copy.deepcopy(bench.model)
    random = Random(f"{case}")  # noqa: S311
    if case.fault == "outlier":
        _plant_outlier(bench.model, random)
    found = subject_of(bench, recipe=case.recipe, layers="all")
    if case.fault == "3 bits":
        path = random.choice([path for path, _ in _weighted(bench.model)])
        override(bench.model, {path: WEAK})
    return found


def _weighted(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield path, module


@torch.no_grad()
def _plant_outlier(model: nn.Module, random: Random) -> None:
    """One channel of a norm's output larger, and its consumer's weight for it smaller."""
    blocks = [module for module in model.modules() if hasattr(module, "mlp")]
    block = random.choice(blocks)
    norm, layer = random.choice([(block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)])
    channel = random.randrange(norm.weight.numel())
    norm.weight[channel] *= OUTLIER
    norm.bias[channel] *= OUTLIER
    layer.weight[:, channel] /= OUTLIER
