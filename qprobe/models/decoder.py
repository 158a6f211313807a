"""From tokens back to pixels."""

from itertools import pairwise

from torch import Tensor, nn

SMALLEST = 8


def _groups(channels: int) -> int:
    """The most groups up to eight that divide ``channels``."""
    return next(groups for groups in range(min(8, channels), 0, -1) if channels % groups == 0)


class Upsampling(nn.Sequential):
    """ConvTranspose 2×2 with stride 2, GroupNorm, GELU: twice the height and the width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2)
        self.norm = nn.GroupNorm(_groups(outputs), outputs)
        self.act = nn.GELU()


class Decoder(nn.Module):
    """``stages`` upsamplings that halve the channels (never below 8), then a 1×1 convolution."""

    def __init__(self, grid: tuple[int, int], embed: int, stages: int, classes: int) -> None:
        super().__init__()
        self.grid = grid
        widths = [embed, *(max(SMALLEST, embed // 2 ** (stage + 1)) for stage in range(stages))]
        self.stages = nn.Sequential(
            *(Upsampling(wide, narrow) for wide, narrow in pairwise(widths))
        )
        self.head = nn.Conv2d(widths[-1], classes, kernel_size=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``[B, N, embed]`` to logits ``[B, classes, H, W]``."""
        x = tokens.transpose(1, 2).reshape(len(tokens), -1, *self.grid)
        logits: Tensor = self.head(self.stages(x))
        return logits
