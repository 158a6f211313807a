"""How one operand is quantized: a frozen value that cannot contradict itself."""

from dataclasses import dataclass
from enum import StrEnum

from qprobe.errors import InputError
from qprobe.quant.formats import MXFP4, BlockFormat, Format, IntFormat
from qprobe.quant.rounding import Rounding


class Tile(StrEnum):
    """The shape of a block."""

    ONE_D = "1d"
    """One block of elements along the contraction axis."""
    TWO_D = "2d"
    """A square of a weight: the weight and its transpose then have the same codes."""


class Granularity(StrEnum):
    """What shares one integer scale."""

    TENSOR = "tensor"
    """Everything."""
    CHANNEL = "channel"
    """All elements with the same index along the channel axis."""
    TOKEN = "token"
    """One row: all channels of one token."""
    VOXEL = "voxel"
    """One position of one image: all channels there."""
    CHANNEL_TOKEN = "channel-token"
    """In a recipe only: ``CHANNEL`` in convolutions, ``TOKEN`` in linear layers."""
    ADAPTIVE = "adaptive"
    """In a recipe only: ``VOXEL`` in 1×1 convolutions, ``CHANNEL`` in others, else ``TOKEN``."""

    @property
    def depends_on_layer(self) -> bool:
        """Whether a layer has to choose the granularity first."""
        return self in {Granularity.CHANNEL_TOKEN, Granularity.ADAPTIVE}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantSpec:
    """Format, rounding and sharing of scales for one operand.

    ``tile`` is for block formats, ``granularity`` for integers; what does not apply keeps its
    default.

    >>> from qprobe.quant.formats import INT4
    >>> QuantSpec(format=INT4, tile=Tile.TWO_D)
    Traceback (most recent call last):
    qprobe.errors.InputError: int4 has no blocks, so no 2d tile; use granularity.
    """

    format: Format
    rounding: Rounding = Rounding.NEAREST_EVEN
    tile: Tile = Tile.ONE_D
    granularity: Granularity = Granularity.CHANNEL

    def __post_init__(self) -> None:
        for name, kind in (("rounding", Rounding), ("tile", Tile), ("granularity", Granularity)):
            value = getattr(self, name)
            if value not in list(kind):
                known = ", ".join(repr(member.value) for member in kind)
                raise InputError(f"{name} is one of {known}; got {value!r}.")
            object.__setattr__(self, name, kind(value))  # a member's value names the member
        if isinstance(self.format, IntFormat):
            self._check_integers()
        elif isinstance(self.format, BlockFormat):
            self._check_blocks()
        else:
            raise InputError(f"format has to be a Format such as NVFP4, got {self.format!r}.")

    def _check_integers(self) -> None:
        if self.tile is not Tile.ONE_D:
            raise InputError(f"{self.format} has no blocks, so no 2d tile; use granularity.")
        if self.rounding is Rounding.STOCHASTIC:
            raise InputError(f"{self.format} is rounded to nearest; stochastic rounding is E2M1's.")

    def _check_blocks(self) -> None:
        if self.granularity is not Granularity.CHANNEL:
            raise InputError(
                f"{self.format} shares scales by blocks, not by {self.granularity}; use tile."
            )
        if self.format == MXFP4 and self.tile is Tile.TWO_D:
            raise InputError("mxfp4 has no 2d tile; its blocks are 1 x 32.")

    def __str__(self) -> str:
        if isinstance(self.format, IntFormat):
            return f"{self.format}/{self.granularity}"
        rounding = " SR" if self.rounding is Rounding.STOCHASTIC else ""
        return f"{self.format}/{self.tile}{rounding}"
