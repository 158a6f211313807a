"""Everything a training needs, built from its configuration: data, model, optimizer, arithmetic."""

import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from qprobe import checkpoints
from qprobe.engine import checkpoint, data
from qprobe.engine.config import Precision, TrainConfig
from qprobe.engine.optimizers import optimizer, schedule
from qprobe.errors import InputError
from qprobe.models import build
from qprobe.quant import Conversion, convert
from qprobe.records.software import software

#: A stream of its own for stochastic rounding, apart from dropout's.
_ROUNDING_STREAM = 1 << 32


@dataclass(kw_only=True, eq=False)
class Workbench:
    """The parts of one training."""

    config: TrainConfig
    device: torch.device
    precision: Precision
    model: nn.Module
    conversion: Conversion
    generator: torch.Generator
    train: data.Loader
    validation: data.Loader
    test: data.Loader
    optimizer: Optimizer
    schedule: LRScheduler
    scaler: torch.amp.GradScaler
    total: int

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which the model and the loss are computed."""
        dtypes = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
        if self.precision not in dtypes:
            return nullcontext()
        return torch.autocast(self.device.type, dtypes[self.precision])

    def example(self, count: int) -> Tensor:
        """The first ``count`` training images, ``[count, C, ...]``, on the model's device.

        The training's own batches stay where they are, and so does the global random state.
        """
        first = self.train.order(0)[:count]
        few = data.Loader(self.train.dataset, first, data.LoaderConfig(batch=count))
        with torch.random.fork_rng(devices=()):
            return next(iter(few)).image.to(self.device)


def prepare(config: TrainConfig) -> Workbench:
    """Build everything; the same configuration gives the same parts."""
    config = config.resolved()
    device = _device(config.device)
    precision = _precision(config.precision, device)
    dataset = data.load(config.data, _data_options(config))
    loaders = _loaders(config, dataset)
    model = build(
        config.arch,
        config.size,
        image=config.image,
        in_channels=dataset.channels,
        classes=1 if dataset.classes == 2 else dataset.classes,
        patch=config.patch,
        seed=config.seed,
        **dict(config.model),
    ).to(device)
    generator = torch.Generator(device).manual_seed(_ROUNDING_STREAM + config.seed)
    conversion = convert(model, config.recipe, config.layers, generator)  # type: ignore[arg-type]
    steps = optimizer(config, model)
    total = config.epochs * len(loaders[0])
    total = total if config.steps is None else min(total, config.steps)
    return Workbench(
        config=config,
        device=device,
        precision=precision,
        model=model,
        conversion=conversion,
        generator=generator,
        train=loaders[0],
        validation=loaders[1],
        test=loaders[2],
        optimizer=steps,
        schedule=schedule(config, steps, total),
        scaler=torch.amp.GradScaler(device.type, enabled=precision is Precision.FP16),
        total=total,
    )


def reopen(path: str | PathLike[str]) -> Workbench:
    """The training that wrote a checkpoint, with its weights: model, recipe, data and split."""
    path = Path(path)
    state = checkpoint.load(path)
    with checkpoint.understood(path):
        config = TrainConfig.of(state["config"])
    bench = prepare(config)
    checkpoints.load_into(bench.model, checkpoints.open(path))  # names what does not fit
    return bench


def environment(bench: Workbench) -> dict[str, Any]:
    """What a result may depend on besides its configuration."""
    cuda = bench.device.type == "cuda"
    return {
        **software(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(bench.device) if cuda else "cpu",
        "precision": bench.precision.value,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in bench.model.parameters()),
        "converted": list(bench.conversion.converted),
        "left_alone": {one.path: one.rule for one in bench.conversion.left_alone},
    }


def _data_options(config: TrainConfig) -> dict[str, Any]:
    """The data's options, at the image size of the model unless they say otherwise."""
    options = dict(config.data_options)
    if ":" not in config.data and "image" in data.options(config.data):
        options.setdefault("image", config.image)
    return options


def _loaders(config: TrainConfig, dataset: data.Dataset) -> list[data.Loader]:
    burdens = data.patient_burdens(dataset)
    if config.fold is None:
        split = data.hold_out(
            burdens,
            seed=config.split_seed,
            validation=_share(config.validation),
            test=_share(config.test),
        )
    else:
        folds = data.k_folds(
            burdens,
            seed=config.split_seed,
            folds=config.folds,
            validation=_share(config.validation),
        )
        split = folds[config.fold]
    augment = data.AugmentConfig() if config.augment else None
    training = data.LoaderConfig(
        batch=config.batch, seed=config.seed, shuffle=True, drop_last=True, augment=augment
    )
    evaluation = data.LoaderConfig(batch=config.batch, seed=config.seed)
    parts = (data.Part.TRAIN, data.Part.VALIDATION, data.Part.TEST)
    return [
        data.Loader(
            dataset,
            split.indices(dataset, part),
            training if part is data.Part.TRAIN else evaluation,
        )
        for part in parts
    ]


def _share(value: float) -> float | int:
    """A number of patients from 1 on, a share of them below."""
    return int(value) if value >= 1 else value


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"the device {name!r} cannot be used here: {str(error).splitlines()[0]}; use 'cpu'."
        ) from error
    return device


def _precision(wanted: Precision, device: torch.device) -> Precision:
    if wanted is not Precision.AUTO:
        return wanted
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return Precision.BF16 if has_bf16 else Precision.FP32


def _processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
