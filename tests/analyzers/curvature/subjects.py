"""Models whose Hessian is known in closed form, and subjects around models."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qprobe.analyzers.base import Subject
from qprobe.quant import convert, recipe


class MeanScore:
    """Minus the mean absolute output: nothing here depends on it."""

    name = "mean"

    def of(self, output: Tensor, batch: Any) -> np.ndarray:
        return -output.detach().abs().flatten(1).mean(1).double().numpy()

    def reduce(self, totals: np.ndarray) -> np.ndarray:
        return totals


def squares(output: Tensor, batch: Any) -> Tensor:
    """``½‖y − t‖²`` per sample."""
    return 0.5 * (output - batch[1]).square().flatten(1).sum(1)


def subject(
    model: nn.Module,
    batches: Sequence[Any],
    loss: Callable[[Tensor, Any], Tensor] = squares,
    name: str = "int4-tensor",
    groups: Callable[[Any], Sequence[str]] | None = None,
) -> Subject:
    convert(model, name, layers="all")
    return Subject(
        model=model, recipe=recipe(name), batches=lambda: batches, loss=loss, score=MeanScore(),
        groups=groups,
    )  # fmt: skip


def linear(dtype: torch.dtype = torch.float64) -> tuple[Subject, Tensor]:
    """Least squares, ``y = W·x``: H is the mean of x·xᵀ, once for each output."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(5, 3, bias=False, dtype=dtype)
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 5, generator=generator))
    data = [
        (
            torch.randn(n, 5, generator=generator).to(dtype),
            torch.randn(n, 3, generator=generator).to(dtype),
        )
        for n in (6, 10)
    ]
    x = torch.cat([batch[0] for batch in data]).double()
    return subject(nn.Sequential(model), data), torch.block_diag(*[x.T @ x / len(x)] * 3)


def logistic_losses(output: Tensor, batch: Any) -> Tensor:
    logits, target = output.squeeze(1), batch[1]
    return nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


def logistic() -> tuple[Subject, Tensor]:
    """Logistic regression: H is the mean of p(1 − p)·x·xᵀ."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.randn(1, 4, generator=generator))
    x = torch.randn(24, 4, generator=generator).double()
    target = (torch.rand(24, generator=generator) < 0.5).double()
    p = torch.sigmoid(x @ model.weight.detach()[0])
    batches = [(x[:8], target[:8]), (x[8:], target[8:])]
    matrix = (x * (p * (1 - p))[:, None]).T @ x / len(x)
    return subject(nn.Sequential(model), batches, logistic_losses), matrix


class Awkward(nn.Module):
    """Parameters that are not used, used linearly, frozen and shared; dropout and running means."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.Linear(8, 8)
        self.frozen.weight.requires_grad_(False)
        self.last = nn.Linear(8, 2)
        self.unused = nn.Linear(8, 3)
        self.shared = nn.Linear(8, 8)
        self.shared.weight = self.first.weight
        self.straight = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.drop(self.norm(self.first(x))))
        hidden = torch.tanh(self.frozen(hidden)) + self.shared(hidden)
        return self.last(hidden) + self.straight * 0.1


def awkward(name: str = "nvfp4-sr") -> Subject:
    torch.manual_seed(2)
    batches = [(torch.randn(12, 8), torch.randn(12, 2)) for _ in range(3)]
    return subject(Awkward(), batches, name=name)
