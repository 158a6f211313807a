"""A shifted-window transformer with one resolution and a transposed-convolution decoder.

Attention stays inside windows; odd blocks shift the tiling by half a window. A grid that the window
does not divide is padded, and padding is never attended to. The parameter counts of the study that
the sizes come from include learned absolute positions beside the relative bias.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprobe.models.decoder import Decoder
from qprobe.models.patches import PatchEmbedding
from qprobe.models.sizes import check_counts, configure
from qprobe.models.transformer import Block, HeadedAttention, depth_rates, initialize
from qprobe.models.vit import ViTConfig

SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"embed": 32, "depth": 4, "heads": 2, "mlp_ratio": 2, "window": 4, "grid": 8},
    "500k": {"embed": 64, "depth": 10, "heads": 4, "mlp_ratio": 3, "window": 4},
    "4m": {"embed": 192, "depth": 9, "heads": 6, "mlp_ratio": 3, "window": 8},
    "15m": {"embed": 448, "depth": 8, "heads": 14, "mlp_ratio": 2, "window": 16},
}


@dataclass(frozen=True, kw_only=True)
class SwinConfig(ViTConfig):
    """What fixes a :class:`Swin`: a :class:`ViTConfig` and the side of a window in tokens."""

    window: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("Swin", {"window": self.window})


def partition(x: Tensor, window: int) -> Tensor:
    """``[B, H, W, C]`` to ``[B · windows, window², C]``, windows row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def reunite(windows: Tensor, padded: tuple[int, int], window: int) -> Tensor:
    """The inverse of :func:`partition`: back to ``[B, H, W, C]``."""
    height, width = padded
    x = windows.reshape(-1, height // window, width // window, window, window, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])


def relative_index(window: int) -> Tensor:
    """Row of the bias table for each query and key of a window: ``[window², window²]``.

    A query ``(dy, dx)`` beyond its key has row
    ``(dy + window − 1)·(2·window − 1) + dx + window − 1``.

    >>> relative_index(2)[0].tolist()
    [4, 3, 1, 0]
    """
    at = torch.arange(window)
    rows, columns = at.repeat_interleave(window), at.repeat(window)
    down = rows[:, None] - rows[None, :] + window - 1
    across = columns[:, None] - columns[None, :] + window - 1
    return down * (2 * window - 1) + across


def shift_mask(grid: tuple[int, int], window: int, shift: int) -> Tensor | None:
    """What is added to the logits: 0 where two tokens share a tile, −inf elsewhere.

    ``[windows, window², window²]``, or None where every pair of a window may attend. The tiling is
    the regular one moved by ``shift``; a cyclic roll brings tokens from opposite edges into one
    window, and padding to the next multiple brings tokens that do not exist.
    """
    padded = padded_grid(grid, window)
    if shift == 0 and padded == grid:
        return None
    tile = [torch.div(torch.arange(side) - shift, window, rounding_mode="floor") for side in padded]
    # Tiles start at −1, and one row holds as many tiles as the padded width at most.
    label = (tile[0][:, None] + 1) * (padded[1] + 2) + tile[1][None, :] + 1
    label[grid[0] :, :] = -1
    label[:, grid[1] :] = -1
    rolled = label.roll((-shift, -shift), dims=(0, 1))
    labels = partition(rolled[None, :, :, None], window).squeeze(-1)
    shared = labels[:, :, None] == labels[:, None, :]
    return torch.zeros(shared.shape).masked_fill(~shared, float("-inf"))


def padded_grid(grid: tuple[int, int], window: int) -> tuple[int, int]:
    """Each side rounded up to a multiple of the window."""
    return (-(-grid[0] // window) * window, -(-grid[1] // window) * window)


class WindowAttention(HeadedAttention):
    """Attention inside the windows of a token grid, with a learned relative position bias."""

    index: Tensor
    mask: Tensor | None

    def __init__(self, config: SwinConfig, shift: int) -> None:
        super().__init__(config.embed, config.heads, config.dropout)
        self.grid, self.window, self.shift = config.tokens, config.window, shift
        self.padded = padded_grid(self.grid, self.window)
        self.bias_table = nn.Parameter(torch.empty((2 * self.window - 1) ** 2, config.heads))
        # Both follow from the configuration, so a checkpoint need not carry them.
        self.register_buffer("index", relative_index(self.window), persistent=False)
        self.register_buffer("mask", shift_mask(self.grid, self.window, shift), persistent=False)

    def bias(self, batch: int) -> Tensor:
        """Relative bias plus mask: ``[1 or batch · windows, heads, window², window²]``."""
        bias = self.bias_table[self.index].permute(2, 0, 1).unsqueeze(0)
        if self.mask is None:
            return bias
        masked = bias + self.mask.to(bias.dtype).unsqueeze(1)
        if len(masked) == 1:
            return masked
        return masked.unsqueeze(0).expand(batch, *(-1,) * masked.ndim).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over tokens ``[B, N, embed]``."""
        (height, width), (padded_height, padded_width) = self.grid, self.padded
        field = x.reshape(len(x), height, width, -1)
        field = F.pad(field, (0, 0, 0, padded_width - width, 0, padded_height - height))
        if self.shift:
            field = field.roll((-self.shift, -self.shift), dims=(1, 2))
        windows = self.attend(partition(field, self.window), self.bias(len(x)))
        field = reunite(windows, self.padded, self.window)
        if self.shift:
            field = field.roll((self.shift, self.shift), dims=(1, 2))
        return field[:, :height, :width].flatten(1, 2)


class Swin(nn.Module):
    """Patch tokens through pre-norm blocks whose windows are shifted in every other block."""

    #: Quantized by default are the qkv, projection and MLP linears, and nothing else.
    qprobe_keep: tuple[str, ...] = ("patch_embed.*", "decoder.*")

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        grid, embed = config.tokens, config.embed
        self.patch_embed = PatchEmbedding(
            config.image, config.in_channels, config.patch_side, embed
        )
        self.position_embed = nn.Parameter(torch.empty(1, grid[0] * grid[1], embed))
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(
            *(
                Block(
                    WindowAttention(config, shift=config.window // 2 if block % 2 else 0),
                    embed,
                    config.hidden,
                    (config.dropout, rate),
                )
                for block, rate in enumerate(depth_rates(config.depth, config.drop_path))
            )
        )
        self.norm = nn.LayerNorm(embed)
        stages = config.patch_side.bit_length() - 1
        self.decoder = Decoder(grid, embed, stages, config.classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, classes, H, W]``."""
        tokens = self.drop(self.patch_embed(x) + self.position_embed)
        logits: Tensor = self.decoder(self.norm(self.blocks(tokens)))
        return logits


def swin(
    size: str,
    *,
    image: tuple[int, int],
    in_channels: int,
    classes: int,
    patch: int | None,
    **options: Any,
) -> Swin:
    """Build a Swin of a named size; options are the fields of :class:`SwinConfig`."""
    geometry = {"image": image, "in_channels": in_channels, "classes": classes, "patch": patch}
    return Swin(configure(SwinConfig, SIZES, size, geometry, options))
