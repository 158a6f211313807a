"""A plain vision transformer with a transposed-convolution decoder.

The parameter counts of the study that the sizes come from (494,473, 3,634,921 and 13,880,777 at
256 px) are met only with a class token that takes part in attention, has a position of its own and
is dropped before the decoder: without it each count is ``2 · embed`` short.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qprobe.models.decoder import Decoder
from qprobe.models.patches import PatchEmbedding, check_patch, default_patch
from qprobe.models.sizes import check_counts, check_rates, configure, refuse
from qprobe.models.transformer import Block, GlobalAttention, depth_rates, initialize

SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"embed": 32, "depth": 4, "heads": 2, "mlp_ratio": 2, "grid": 8},
    "500k": {"embed": 64, "depth": 10, "heads": 2, "mlp_ratio": 3},
    "4m": {"embed": 192, "depth": 9, "heads": 6, "mlp_ratio": 3},
    "15m": {"embed": 448, "depth": 8, "heads": 14, "mlp_ratio": 2},
}


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """What fixes a :class:`ViT`; ``patch=None`` aims at ``grid`` patches a side."""

    image: tuple[int, int]
    in_channels: int
    classes: int
    patch: int | None
    embed: int
    depth: int
    heads: int
    mlp_ratio: float
    grid: int = 16
    dropout: float = 0.1
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        what = type(self).__name__.removesuffix("Config")
        names = ("in_channels", "classes", "embed", "depth", "heads", "grid")
        check_counts(what, {name: getattr(self, name) for name in names})
        check_rates(what, {"dropout": self.dropout, "drop_path": self.drop_path})
        refuse(self.mlp_ratio <= 0, f"{what}: mlp_ratio must be positive, got {self.mlp_ratio}.")
        refuse(
            self.embed % self.heads != 0,
            f"{what}: embed {self.embed} cannot be split into {self.heads} heads; "
            "choose a number of heads that divides it.",
        )
        check_patch(self.image, self.patch_side)

    @property
    def patch_side(self) -> int:
        """The patch in pixels, chosen from the image where ``patch`` is None."""
        return default_patch(self.image, self.grid) if self.patch is None else self.patch

    @property
    def tokens(self) -> tuple[int, int]:
        """Patches down and across."""
        return (self.image[0] // self.patch_side, self.image[1] // self.patch_side)

    @property
    def hidden(self) -> int:
        """Width of the MLP."""
        return int(self.embed * self.mlp_ratio)


class ViT(nn.Module):
    """Patch tokens and a class token through pre-norm blocks with global attention."""

    #: Quantized by default are the qkv, projection and MLP linears, and nothing else.
    qprobe_keep: tuple[str, ...] = ("patch_embed.*", "decoder.*")

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        grid, embed = config.tokens, config.embed
        self.patch_embed = PatchEmbedding(
            config.image, config.in_channels, config.patch_side, embed
        )
        self.class_token = nn.Parameter(torch.empty(1, 1, embed))
        self.position_embed = nn.Parameter(torch.empty(1, 1 + grid[0] * grid[1], embed))
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(
            *(
                Block(
                    GlobalAttention(embed, config.heads, config.dropout),
                    embed,
                    config.hidden,
                    (config.dropout, rate),
                )
                for rate in depth_rates(config.depth, config.drop_path)
            )
        )
        self.norm = nn.LayerNorm(embed)
        stages = config.patch_side.bit_length() - 1
        self.decoder = Decoder(grid, embed, stages, config.classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, classes, H, W]``."""
        patches = self.patch_embed(x)
        token = self.class_token.expand(len(patches), -1, -1).to(patches.dtype)
        tokens = self.drop(torch.cat((token, patches), dim=1) + self.position_embed)
        tokens = self.norm(self.blocks(tokens))
        logits: Tensor = self.decoder(tokens[:, 1:])
        return logits


def vit(
    size: str,
    *,
    image: tuple[int, int],
    in_channels: int,
    classes: int,
    patch: int | None,
    **options: Any,
) -> ViT:
    """Build a ViT of a named size; options are the fields of :class:`ViTConfig`."""
    geometry = {"image": image, "in_channels": in_channels, "classes": classes, "patch": patch}
    return ViT(configure(ViTConfig, SIZES, size, geometry, options))
