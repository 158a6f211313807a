import math

import pytest
import torch
from torch import nn

from qprobe.engine import Schedule, TrainConfig
from qprobe.engine.optimizers import factor, optimizer, schedule


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adamax", torch.optim.Adamax),
        ("adamw", torch.optim.AdamW),
        ("adam", torch.optim.Adam),
        ("sgd", torch.optim.SGD),
    ],
)
def test_an_optimizer_by_name_takes_rate_and_decay(name, kind):
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    made = optimizer(TrainConfig(optimizer=name, lr=0.5, weight_decay=0.25).resolved(), model)
    assert type(made) is kind
    (group,) = made.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert group["params"] == [model.weight]
    assert group.get("momentum", 0.9) == 0.9


def rates(config: TrainConfig, total: int) -> list[float]:
    model = nn.Linear(1, 1)
    steps = optimizer(config.resolved(), model)
    moved = schedule(config, steps, total)
    seen = []
    for _ in range(total):
        seen.append(steps.param_groups[0]["lr"])
        steps.step()
        moved.step()
    return seen


def test_a_cosine_goes_from_the_rate_to_zero():
    config = TrainConfig(schedule=Schedule.COSINE, lr=0.1)
    expected = [0.1 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]
    assert rates(config, 10) == pytest.approx(expected, rel=1e-12)
    assert factor(config, 10, 10) == 0.0
    assert factor(config, 99, 10) == 0.0


def test_a_warm_up_rises_in_equal_parts_to_the_rate():
    config = TrainConfig(schedule=Schedule.CONSTANT, warmup=3, lr=1.0)
    assert rates(config, 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    config = TrainConfig(schedule=Schedule.COSINE, warmup=3, lr=1.0)
    expected = [0.25, 0.5, 0.75, *((1 + math.cos(math.pi * step / 4)) / 2 for step in range(4))]
    assert rates(config, 7) == pytest.approx(expected)


def test_a_warm_up_longer_than_the_training_only_rises():
    config = TrainConfig(schedule=Schedule.COSINE, warmup=9, lr=1.0)
    assert rates(config, 3) == pytest.approx([0.1, 0.2, 0.3])


def test_a_plateau_halves_after_ten_bad_epochs_and_counts_a_score_of_minus_infinity_as_bad():
    steps = optimizer(TrainConfig(lr=1.0).resolved(), nn.Linear(1, 1))
    moved = schedule(TrainConfig(), steps, 100)
    seen = []
    for score in [0.5, 0.6, *[0.6] * 5, *[-math.inf] * 6, 0.7]:
        moved.step(score)
        seen.append(steps.param_groups[0]["lr"])
    assert seen == [1.0] * 12 + [0.5] * 2
