"""The study's CNN with another normalization in place of batch norm, and nothing else changed."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.models import ARCHITECTURES

GROUPS = 8


class ChannelNorm(nn.Module):
    """Layer norm over the channels at each position, as transformers have it: ``[B, C, H, W]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize every position by itself."""
        weight, bias = self.norm.weight, self.norm.bias
        out: Tensor = F.layer_norm(x.movedim(1, -1), weight.shape, weight, bias).movedim(-1, 1)
        return out


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": ChannelNorm,
    "group": lambda channels: nn.GroupNorm(GROUPS, channels),
}


def make(size: str, *, norm: str, patch: int | None = None, **given: Any) -> nn.Module:
    """The CNN of a size; norms start as the identity and draw nothing, so all have its weights."""
    if norm not in NORMS:
        raise InputError(f"norm is one of {', '.join(NORMS)}, got {norm!r}.")
    model = ARCHITECTURES.get("cnn")(size, patch=patch, **given)
    assert isinstance(model, nn.Module)  # noqa: S101 - the factory of a registered architecture
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, NORMS[norm](child.num_features))
    return model
