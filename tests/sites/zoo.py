"""Small models of every shape that hooks are known to trip over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from qprobe.models import build
from qprobe.quant import convert
from qprobe.sites import Tap


class Residual(nn.Module):
    """In-place ReLU, in-place additions, a projected and a plain skip."""

    def __init__(self, width=4):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.down = nn.Conv2d(width, width, 1)
        self.last = nn.Conv2d(width, width, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.conv2(self.act(self.norm(self.conv1(x))))
        y += self.down(x)
        y = self.act(y)
        out = self.last(y)
        out += y
        return self.act(out)


class Twice(nn.Module):
    """A module called twice, and one held under two names."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)
        self.alias = self.head

    def forward(self, x):
        x = self.layer(self.layer(x).relu())
        return self.head(x) * 2 + self.alias(x.tanh())


class UNet(nn.Module):
    """Concatenated skips, by keyword, and a dictionary for an output."""

    def __init__(self):
        super().__init__()
        self.down1 = nn.Conv2d(3, 4, 3, padding=1)
        self.down2 = nn.Conv2d(4, 8, 2, stride=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, *, image, scale=1.0):
        skip = F.relu(self.down1(image))
        deep = F.relu_(self.down2(skip))
        return {"logits": self.head(torch.cat(tensors=[self.up(deep), skip], dim=1)) * scale}


class Gate(nn.Module):
    """A gate, a gated linear unit, and two activations that only look like gates."""

    def __init__(self):
        super().__init__()
        self.value = nn.Linear(4, 6)
        self.control = nn.Linear(4, 6)
        self.glu = nn.Linear(6, 8)
        self.fused = Tap("fused")
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.value(x) * torch.sigmoid(self.control(x))
        x = x * torch.sigmoid(x)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
        a, b = self.glu(x).chunk(2, -1)
        return (self.head(self.fused(F.silu(a) * b)),)


class PlainAttention(nn.Module):
    """Attention as three calls, with a child for the softmax."""

    def __init__(self, *, how="matmul"):
        super().__init__()
        self.embed, self.qkv, self.proj = nn.Linear(6, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.table = nn.Parameter(torch.zeros(5, 5))
        self.softmax = nn.Softmax(dim=-1)
        self.how = how

    def forward(self, x):
        x = self.embed(x)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        if self.how == "folded":
            q, k, v = (part.reshape(-1, *part.shape[2:]) for part in (q, k, v))
        if self.how == "einsum":
            logits = torch.einsum("bhqd,bhkd->bhqk", q, k) * 0.5
        else:
            logits = (q * 0.5) @ k.transpose(-2, -1)
        p = F.dropout(self.softmax(logits + self.table), 0.1, self.training)
        heads = torch.einsum("bhqk,bhkd->bhqd", p, v) if self.how == "einsum" else p @ v
        heads = heads.unflatten(0, (-1, 2)) if self.how == "folded" else heads
        return x + self.proj(heads.transpose(1, 2).flatten(2))


class Multihead(nn.Module):
    """PyTorch's own encoder layer behind an embedding, batch second."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.position = nn.Embedding(5, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1)
        self.head = nn.Linear(8, 11)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids) + self.position(torch.arange(len(ids), device=ids.device)).unsqueeze(1)
        return self.head(self.layer(x))


class Checkpointed(nn.Module):
    """Two residual blocks that are computed twice."""

    def __init__(self, *, reentrant=False):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(Inner() for _ in range(2))
        self.reentrant = reentrant

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        return x + F.dropout(self.fc2(F.gelu(self.fc1(self.norm(x)))), 0.2, self.training)


@dataclass(frozen=True, kw_only=True)
class Animal:
    """A model, what it is called with, and the fusions and attentions that it has."""

    make: Callable[[], nn.Module]
    args: Callable[[], tuple[Any, ...]] = tuple
    kwargs: Callable[[], dict[str, Any]] = dict
    fusions: tuple[str, ...] = ()
    attentions: tuple[str, ...] = ()

    def inputs(self):
        torch.manual_seed(1)
        return self.args(), self.kwargs()

    def model(self):
        torch.manual_seed(0)
        return self.make()


def _images(*shape):
    return lambda: (torch.randn(*shape),)


def _converted():
    model = build("vit", "tiny", image=32)
    convert(model, "nvfp4-2d-rht-sr")
    return model


def _blocks(name):
    return tuple(
        f"add blocks.{n}/add.0: {'.' if n == 0 else f'blocks.{n - 1}/add.1'} | blocks.{n}.attn.proj"
        if half == 0
        else f"add blocks.{n}/add.1: blocks.{n}/add.0 | blocks.{n}.mlp.fc2"
        for n in range(4)
        for half in range(2)
    )


_PRODUCTS = tuple(f"blocks.{n}.attn.product/sdpa.0" for n in range(4))
_INNER = (
    "add blocks.0/add.0: stem | blocks.0.fc2",
    "add blocks.1/add.0: blocks.0/add.0 | blocks.1.fc2",
)

ZOO: dict[str, Animal] = {
    "cnn": Animal(
        make=lambda: build("cnn", "tiny"),
        args=_images(2, 3, 32, 32),
        fusions=tuple(
            f"cat decoder.{n}/cat.0: decoder.{n}.norm | encoder.{2 - n}.norm" for n in range(3)
        ),
    ),
    "vit": Animal(
        make=lambda: build("vit", "tiny", image=32),
        args=_images(2, 3, 32, 32),
        fusions=_blocks("vit"),
        attentions=_PRODUCTS,
    ),
    "swin": Animal(
        make=lambda: build("swin", "tiny", image=32),
        args=_images(2, 3, 32, 32),
        fusions=_blocks("swin"),
        attentions=_PRODUCTS,
    ),
    "converted": Animal(
        make=_converted,
        args=_images(2, 3, 32, 32),
        fusions=_blocks("vit"),
        attentions=_PRODUCTS,
    ),
    "residual": Animal(
        make=Residual,
        args=_images(2, 3, 6, 6),
        fusions=("add ./add.0: conv2 | down", "add ./add.1: last | ./add.0"),
    ),
    "twice": Animal(make=Twice, args=_images(3, 4), fusions=("add ./add.0: head | head",)),
    "unet": Animal(
        make=UNet,
        kwargs=lambda: {"image": torch.randn(2, 3, 8, 8)},
        fusions=("cat ./cat.0: up | down1",),
    ),
    "gate": Animal(
        make=Gate,
        args=_images(3, 4),
        fusions=("gate ./mul.0: value | control", "gate ./mul.3: glu | glu"),
    ),
    "plain attention": Animal(
        make=PlainAttention,
        args=_images(3, 5, 6),
        fusions=("add ./add.1: embed | proj",),
        attentions=("./matmul.0",),
    ),
    "einsum attention": Animal(
        make=lambda: PlainAttention(how="einsum"),
        args=_images(3, 5, 6),
        fusions=("add ./add.1: embed | proj",),
        attentions=("./matmul.0",),
    ),
    "folded attention": Animal(
        make=lambda: PlainAttention(how="folded"),
        args=_images(3, 5, 6),
        fusions=("add ./add.1: embed | proj",),
        attentions=("./matmul.0",),
    ),
    "multihead": Animal(
        make=Multihead,
        args=lambda: (torch.randint(0, 11, (5, 3)),),
        fusions=(
            "add layer/add.0: . | layer.self_attn",
            "add layer/add.1: layer.norm1 | layer.linear2",
        ),
        attentions=("layer.self_attn/multi_head_attention_forward.0",),
    ),
    "checkpointed": Animal(make=Checkpointed, args=_images(3, 4), fusions=_INNER),
}


def several(name, values):
    """Inputs of the animal ``name``, with so many examples that a sample of them is taken."""

    def repeated(t):
        times = [1] * t.dim()
        times[1 if name == "multihead" else 0] = 8 if t.dim() == 4 else 200
        return t.repeat(times)

    return tree_map_only(torch.Tensor, repeated, values)


def loss_of(output):
    """A scalar that depends on every tensor of an output."""
    if isinstance(output, torch.Tensor):
        return (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum()
    values = output.values() if isinstance(output, dict) else output
    return sum(loss_of(value) for value in values if torch.is_tensor(value))


def hooks_of(model):
    """How many hooks of any kind the modules and parameters have."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
    return modules + sum(len(p._backward_hooks or ()) for p in model.parameters())
