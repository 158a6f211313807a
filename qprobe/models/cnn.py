"""A convolutional encoder and decoder of constant width with concatenated skips.

Every encoder stage is Conv 4×4 stride 2, batch norm, activation (leaky ReLU in the first, ReLU
after it) and dropout. Every decoder stage is ConvTranspose 4×4 stride 2, batch norm, ReLU, the skip
of its resolution and dropout; the last one has no norm and gives the logits. All convolutions carry
a bias, also those before a batch norm: only so are the published counts met.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.models.sizes import check_counts, check_rates, configure, refuse

SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"stages": 4, "channels": 32},
    "500k": {"stages": 4, "channels": 64},
    "4m": {"stages": 6, "channels": 128},
    "15m": {"stages": 7, "channels": 224},
}


@dataclass(frozen=True, kw_only=True)
class CNNConfig:
    """What fixes a :class:`CNN`."""

    image: tuple[int, int]
    in_channels: int
    classes: int
    patch: None = None
    stages: int
    channels: int
    dropout: float = 0.5

    def __post_init__(self) -> None:
        names = ("in_channels", "classes", "stages", "channels")
        check_counts("CNN", {name: getattr(self, name) for name in names})
        check_rates("CNN", {"dropout": self.dropout})
        refuse(self.patch is not None, f"a CNN has no patches; leave patch={self.patch} out.")
        refuse(self.stages < 2, "CNN: stages must be at least 2, the last one gives the logits.")
        check_divisible(self.image, self.stages)


def check_divisible(image: tuple[int, int], stages: int) -> None:
    """Every stage halves, so each side is a multiple of ``2 ** stages``."""
    step = 2**stages
    refuse(
        any(side < step or side % step for side in image),
        f"a CNN of {stages} stages takes sides that are multiples of {step}, got "
        f"{image[0]}x{image[1]}; resize or pad the images, or take fewer stages.",
    )


class Encoding(nn.Module):
    """Half the height and the width."""

    def __init__(self, inputs: int, channels: int, dropout: float, *, leaky: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, channels, kernel_size=4, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.LeakyReLU(0.2) if leaky else nn.ReLU()
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalize, activate, drop."""
        out: Tensor = self.drop(self.act(self.norm(self.conv(x))))
        return out


class Decoding(nn.Module):
    """Twice the height and the width, joined with the skip of that resolution."""

    def __init__(self, inputs: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, channels, kernel_size=4, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Upsample ``x`` and append ``skip`` along the channels."""
        up = self.act(self.norm(self.conv(x)))
        out: Tensor = self.drop(torch.cat((up, skip), dim=1))
        return out


class CNN(nn.Module):
    """Encoder, decoder and skips; ``encoder.0`` is the first and ``head`` the last layer."""

    def __init__(self, config: CNNConfig) -> None:
        super().__init__()
        self.config = config
        width, rate = config.channels, config.dropout
        self.encoder = nn.ModuleList(
            Encoding(width if stage else config.in_channels, width, rate, leaky=stage == 0)
            for stage in range(config.stages)
        )
        # The study drops out after every join but the last.
        self.decoder = nn.ModuleList(
            Decoding(
                2 * width if stage else width, width, rate if stage < config.stages - 2 else 0.0
            )
            for stage in range(config.stages - 1)
        )
        self.head = nn.ConvTranspose2d(
            2 * width, config.classes, kernel_size=4, stride=2, padding=1
        )
        self._initialize()

    @property
    def qprobe_keep(self) -> tuple[str, ...]:
        """The bottleneck, which the published protocol leaves in high precision."""
        return (f"encoder.{self.config.stages - 1}.conv",)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, classes, H, W]``, of any size that halves."""
        self._check(x)
        skips: list[Tensor] = []
        for encoding in self.encoder:
            x = encoding(x)
            skips.append(x)
        skips.pop()
        for decoding in self.decoder:
            x = decoding(x, skips.pop())
        logits: Tensor = self.head(x)
        return logits

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4:
            raise InputError(
                f"the CNN takes a batch [B, C, H, W], got shape {tuple(x.shape)}; "
                "add the missing dimension."
            )
        height, width = x.shape[-2:]
        check_divisible((height, width), self.config.stages)
        step = 2**self.config.stages
        refuse(
            self.training and len(x) * (height // step) * (width // step) == 1,
            f"the bottleneck of one {height}x{width} image is a single position, of which batch "
            "norm has no variance; train with two images or larger ones.",
        )

    @torch.no_grad()
    def _initialize(self) -> None:
        """Kaiming normal: std √(2/fan-in), fan-in being the inputs that make one output value.

        A transposed convolution with stride 2 and a 4×4 kernel adds 2×2 taps per input channel.
        ``torch.nn.init.kaiming_normal_`` reads the output channels as its fan-in and would start
        with logits several times too large.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                taps = 16 if isinstance(module, nn.Conv2d) else 4
                nn.init.normal_(module.weight, std=(2.0 / (module.in_channels * taps)) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def cnn(
    size: str,
    *,
    image: tuple[int, int],
    in_channels: int,
    classes: int,
    patch: int | None,
    **options: Any,
) -> CNN:
    """Build a CNN of a named size; options are ``stages``, ``channels`` and ``dropout``."""
    geometry = {"image": image, "in_channels": in_channels, "classes": classes, "patch": patch}
    return CNN(configure(CNNConfig, SIZES, size, geometry, options))
