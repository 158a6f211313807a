"""Optimizers and learning rate schedules by name."""

import math
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, Adamax, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from qprobe.engine.config import Schedule, TrainConfig

_OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adamax": Adamax,
    "adamw": AdamW,
    "adam": Adam,
    "sgd": SGD,
}


def optimizer(config: TrainConfig, model: nn.Module) -> Optimizer:
    """The optimizer of a resolved configuration over the model's trainable parameters."""
    kind = _OPTIMIZERS[config.optimizer or ""]
    settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if kind is SGD:
        settings["momentum"] = 0.9
    return kind([p for p in model.parameters() if p.requires_grad], **settings)


def schedule(config: TrainConfig, optimizer: Optimizer, total: int) -> LRScheduler:
    """The schedule over ``total`` steps: a plateau is stepped per epoch, the others per step."""
    if config.schedule is Schedule.PLATEAU:
        return ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=10)
    return LambdaLR(optimizer, lambda step: factor(config, step, total))


def factor(config: TrainConfig, step: int, total: int) -> float:
    """What the learning rate is multiplied with at step 0, 1, …, ``total`` − 1.

    >>> config = TrainConfig(schedule=Schedule.COSINE, warmup=2)
    >>> [round(factor(config, step, 6), 3) for step in range(6)]
    [0.333, 0.667, 1.0, 0.854, 0.5, 0.146]
    """
    if step < config.warmup:
        return (step + 1) / (config.warmup + 1)
    if config.schedule is Schedule.CONSTANT:
        return 1.0
    done = (step - config.warmup) / max(1, total - config.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
