"""The models that watching is measured on, and how to take one step of each."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprobe.models import build
from qprobe.records.schema import Role
from qprobe.sites import Site, discover

WATCHED = frozenset({Role.INPUT, Role.WEIGHT, Role.GRAD_OUTPUT})


class Block(nn.Module):
    """A block of a vision transformer as others write it: attention inside one module."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """4.2 million parameters; 196 tokens and one that is learned."""

    def __init__(self, image: int = 224, dim: int = 192, depth: int = 9) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 16, 16)
        tokens = (image // 16) ** 2 + 1
        self.token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.position = nn.Parameter(torch.randn(1, tokens, dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, max(1, dim // 64)) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 100)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A model and how to take one step of it."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    amp: bool
    optimizer: torch.optim.Optimizer

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.amp):
            loss = self.loss(self.model(self.x), self.y)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    @property
    def sites(self) -> list[Site]:
        """Input, weight and gradient of every layer that multiplies, but what is no ViT linear."""
        kinds = ("linear",) if isinstance(self.model, ViT) else ("conv",)
        found = discover(self.model)
        return [s for s in found if s.role in WATCHED and s.kind.startswith(kinds)]


#: Image, channels, blocks and batch: as measured, only to see that it runs, and so many layers as
#: the first with hardly any work to do.
SIZES = {"full": (224, 192, 9, 16), "quick": (32, 64, 2, 4), "idle": (32, 64, 9, 1)}


def vit(size: str, amp: bool = False) -> Training:
    torch.manual_seed(0)
    image, dim, depth, batch = SIZES[size]
    model = ViT(image, dim, depth)
    return Training(
        name=f"ViT {'bfloat16' if amp else 'float32'}",
        model=model,
        x=torch.randn(batch, 3, image, image),
        y=torch.randint(0, 100, (batch,)),
        loss=F.cross_entropy,
        amp=amp,
        optimizer=torch.optim.AdamW(model.parameters(), 1e-4),
    )


def cnn(quick: bool) -> Training:
    image, batch = (32, 2) if quick else (128, 16)
    model = build("cnn", "500k", image=image)
    x = torch.randn(batch, 3, image, image)
    return Training(
        name="CNN float32",
        model=model,
        x=x,
        y=(x[:, :1] > 0).float(),
        loss=F.binary_cross_entropy_with_logits,
        amp=False,
        optimizer=torch.optim.AdamW(model.parameters(), 1e-4),
    )
