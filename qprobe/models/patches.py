"""An image as a grid of patch tokens."""

from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.models.sizes import check_counts, refuse


def default_patch(image: tuple[int, int], grid: int) -> int:
    """The largest power of two that divides both sides and leaves at least ``grid`` patches.

    With the 16×16 grid of the published sizes that is 16 at 256, 8 at 128 and 4 at 64.

    >>> [default_patch((side, side), 16) for side in (64, 96, 128, 224, 256)]
    [4, 4, 8, 8, 16]
    """
    shorter = min(image)
    powers = [1 << exponent for exponent in range(1, shorter.bit_length())]
    fitting = [
        patch
        for patch in powers
        if shorter // patch >= grid and not any(side % patch for side in image)
    ]
    # More than twice the grid would be four times the tokens: a surprise in time and memory.
    if not fitting or shorter // fitting[-1] > 2 * grid:
        raise InputError(
            f"no patch suits an image of {image[0]}x{image[1]}: give patch=, or sides that are a "
            f"power of two times {grid} to {2 * grid}, such as {16 * grid}."
        )
    return fitting[-1]


def check_patch(image: tuple[int, int], patch: int) -> None:
    """A patch is a power of two (each decoder stage doubles) that divides both sides."""
    check_counts("patch", {"patch": patch})
    refuse(
        patch & (patch - 1) != 0,
        f"patch must be a power of two, because each decoder stage doubles; got {patch!r}.",
    )
    refuse(
        any(side % patch for side in image),
        f"an image of {image[0]}x{image[1]} cannot be cut into patches of {patch}; "
        "give sides that are multiples of the patch, or another patch.",
    )


class PatchEmbedding(nn.Module):
    """``[B, C, H, W]`` to LayerNorm-ed tokens ``[B, H/patch · W/patch, embed]``, row by row."""

    def __init__(self, image: tuple[int, int], in_channels: int, patch: int, embed: int) -> None:
        super().__init__()
        self.image = image
        self.grid = (image[0] // patch, image[1] // patch)
        self.conv = nn.Conv2d(in_channels, embed, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(embed)

    def forward(self, x: Tensor) -> Tensor:
        """Embed a batch of images."""
        if x.ndim != 4 or tuple(x.shape[-2:]) != self.image:
            raise InputError(
                f"the model was built for images of {self.image[0]}x{self.image[1]} and got a "
                f"batch of shape {tuple(x.shape)}; resize it, or build with image=."
            )
        tokens: Tensor = self.norm(self.conv(x).flatten(2).transpose(1, 2))
        return tokens
