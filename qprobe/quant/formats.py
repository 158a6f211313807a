"""Number formats as data.

A format says which values exist and how a block gets its scale; how a number finds its value is
:mod:`qprobe.quant.rounding`, and how a tensor finds its scales is :mod:`qprobe.quant.blockscale`
and :mod:`qprobe.quant.integer`.
"""

from dataclasses import dataclass
from enum import StrEnum

from qprobe.errors import InputError


class ScaleFormat(StrEnum):
    """How the scale of a block is stored."""

    E4M3 = "e4m3"
    """8-bit float, 3 mantissa bits, largest value 448, no infinity (``float8_e4m3fn``)."""
    E8M0 = "e8m0"
    """A power of two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatElement:
    """A small float: its magnitudes in code order; one more bit is the sign.

    >>> E2M1.largest, E2M1.bits
    (6.0, 4)
    """

    name: str
    magnitudes: tuple[float, ...]

    @property
    def largest(self) -> float:
        """The largest finite magnitude."""
        return self.magnitudes[-1]

    @property
    def bits(self) -> int:
        """Bits of one code, the sign included."""
        return len(self.magnitudes).bit_length()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFormat:
    """Small floats that share a scale block by block along one axis."""

    name: str
    element: FloatElement
    #: Elements that share one scale.
    block: int
    scale: ScaleFormat
    #: Whether one float32 factor per tensor comes on top of the block scales.
    tensor_scale: bool

    def __post_init__(self) -> None:
        if self.element != E2M1 or self.block < 1:
            raise InputError(
                f"{self.name}: blocks hold one or more E2M1 elements, got {self.block} of "
                f"{self.element.name}."
            )
        if self.tensor_scale is not (self.scale is ScaleFormat.E4M3):
            raise InputError(
                f"{self.name}: a factor per tensor goes with e4m3 scales and with no others; "
                f"got {self.scale} and tensor_scale={self.tensor_scale}."
            )

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class IntFormat:
    """Symmetric integers ``-largest..largest`` with one float32 scale a group.

    >>> INT4.largest, INT3.largest
    (7, 3)
    """

    name: str
    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise InputError(f"{self.name}: codes of 2 to 8 bits are stored, got {self.bits}.")

    @property
    def largest(self) -> int:
        """The largest code; the most negative two's-complement code is not used."""
        return int(2 ** (self.bits - 1)) - 1

    def __str__(self) -> str:
        return self.name


Format = BlockFormat | IntFormat

E2M1 = FloatElement(name="e2m1", magnitudes=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0))

NVFP4 = BlockFormat(name="nvfp4", element=E2M1, block=16, scale=ScaleFormat.E4M3, tensor_scale=True)
MXFP4 = BlockFormat(
    name="mxfp4", element=E2M1, block=32, scale=ScaleFormat.E8M0, tensor_scale=False
)
INT8 = IntFormat(name="int8", bits=8)
INT4 = IntFormat(name="int4", bits=4)
INT3 = IntFormat(name="int3", bits=3)
