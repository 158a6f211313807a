"""A weight that is stored as codes and scales, and how to read it back."""

from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from qprobe.quant.formats import Format, IntFormat
from qprobe.stats.codes import e2m1_values


class Layout(StrEnum):
    """Who packed a weight, and so how its parts are named and multiplied."""

    DENSE = "dense"
    """Not packed."""
    MODELOPT_NVFP4 = "modelopt-nvfp4"
    """``weight`` (two codes a byte), ``weight_scale`` (E4M3), ``weight_scale_2`` (float32)."""
    NVFP4_PACK_QUANTIZED = "nvfp4-pack-quantized"
    """compressed-tensors: ``weight_packed``, ``weight_scale``, dividing ``weight_global_scale``."""
    MXFP4_PACK_QUANTIZED = "mxfp4-pack-quantized"
    """compressed-tensors: ``weight_packed``, ``weight_scale`` as exponents (E8M0)."""
    MODELOPT_MXFP4 = "modelopt-mxfp4"
    """``weight`` (two codes a byte) and ``weight_scale`` as exponents (E8M0)."""
    MXFP4_EXPERTS = "mxfp4-experts"
    """gpt-oss: ``_blocks`` and ``_scales`` of all experts, here one above the other."""
    PACK_QUANTIZED = "pack-quantized"
    """compressed-tensors: integers along the input in int32, ``weight_shape``, ``weight_scale``."""
    GPTQ = "gptq"
    """``qweight`` packed along the input, ``qzeros`` less one, ``scales``, ``g_idx``."""
    AWQ = "awq"
    """``qweight`` and ``qzeros`` packed along the output in the order 0 2 4 6 1 3 5 7."""
    SCALED = "scaled"
    """``weight`` in float8 or int8 beside ``weight_scale``, ``weight_scale_inv`` or ``SCB``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedWeight:
    """Codes and scales of a weight ``[out, in]``.

    E2M1 codes are 0..15, bit 3 the sign; integers are signed, zero points not yet taken off.
    """

    layout: Layout
    format: Format
    #: uint8 (E2M1) or int16 (integers), ``[out, in]``.
    codes: Tensor
    #: float32 ``[out, groups]``: the stored scales as numbers.
    scale: Tensor
    #: float32 ``[out, groups]``: what a code of each group is multiplied with.
    decode: Tensor
    #: float32 without axes: what the stored scales are multiplied with, where there is such a
    #: factor. compressed-tensors stores its reciprocal, from which this one is taken.
    tensor_scale: Tensor | None = None
    #: int16 ``[out, groups]``: what is subtracted from the codes.
    zero: Tensor | None = None
    #: int64 ``[in]``: the group of each input where neighbours need not share one.
    groups: Tensor | None = None
    #: float32 ``[in]``: what inputs are multiplied with before the product (AWQ's smoothing).
    input_scale: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(self.codes.shape)

    @property
    def group_size(self) -> int:
        """Inputs that share a scale."""
        return self.codes.shape[1] // self.scale.shape[1]

    def rows(self, start: int, stop: int) -> "PackedWeight":
        """Some outputs of it."""
        part = slice(start, stop)
        return replace(
            self,
            codes=self.codes[part],
            scale=self.scale[part],
            decode=self.decode[part],
            zero=None if self.zero is None else self.zero[part],
        )

    def values(self) -> Tensor:
        """The weight, float32: ``(code − zero) · decode``, each product rounded once.

        With a scale of the inputs it is the weight that an input without that scale belongs to.
        """
        if self.input_scale is not None:
            return replace(self, input_scale=None).values().mul_(self.input_scale)
        if not isinstance(self.format, IntFormat):
            return e2m1_values(self.codes).mul_(self._spread(self.decode))
        codes = self.codes if self.zero is None else self.codes - self._spread(self.zero)
        return codes.float().mul_(self._spread(self.decode))

    def _spread(self, of_groups: Tensor) -> Tensor:
        """A value of each group for each of its elements."""
        if self.groups is not None:
            return of_groups[:, self.groups]
        return of_groups.repeat_interleave(self.group_size, 1)


def nibbles(packed: Tensor) -> Tensor:
    """The two 4-bit codes of each byte, the low half first, along the last axis.

    >>> nibbles(torch.tensor([[0x21, 0x43]], dtype=torch.uint8)).tolist()
    [[1, 2, 3, 4]]
    """
    return torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2)


def exponents(stored: Tensor) -> Tensor:
    """E8M0 scales as float32: ``2^(code − 127)``, of which the last is NaN.

    >>> exponents(torch.tensor([0, 127, 130, 255], dtype=torch.uint8)).tolist()
    [5.877471754111438e-39, 1.0, 8.0, nan]
    """
    table = torch.tensor([*(2.0 ** (code - 127) for code in range(255)), torch.nan])
    return table.to(stored.device)[stored.view(torch.uint8).long()]


def fields(words: Tensor, bits: int) -> Tensor:
    """The unsigned ``bits``-bit fields of int32 words, lowest first, along the last axis; int16.

    >>> fields(torch.tensor([[0x4321]], dtype=torch.int32), 4).tolist()
    [[1, 2, 3, 4, 0, 0, 0, 0]]
    """
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=words.device)
    found: Tensor = (words.unsqueeze(-1) >> shifts) & (2**bits - 1)
    return found.to(torch.int16).flatten(-2)
