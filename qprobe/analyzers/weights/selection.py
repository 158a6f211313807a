"""Which stored tensors are operands of a matrix product, told by name and shape alone."""

from collections.abc import Sequence
from enum import StrEnum

from qprobe.quant.formats import NVFP4


class Part(StrEnum):
    """What a stored tensor is for."""

    PRODUCT = "product"
    """A weight of a linear layer or convolution: recipes quantize it, findings are about it."""
    EMBEDDING = "embedding"
    """A table that is looked up: recipes leave it alone; measured, not ranked."""
    NARROW = "narrow"
    """A depth-wise or single-input weight, too narrow for a block; measured, not ranked."""
    OTHER = "other"
    """Norms, biases, tables of positions, stacks of experts: looked at for NaN and infinity."""


_EMBEDDINGS = ("embed", "wte", "wpe", "lookup")
_POSITIONS = ("pos_embed", "position_bias", "cls_token", "mask_token")
_WEIGHTS = ("weight", "in_proj_weight", "kernel")


def part(name: str, shape: Sequence[int]) -> Part:
    """What the tensor ``name`` of ``shape`` is for.

    A matrix is ``[out, in]`` and a convolution ``[out, in, ...]`` as PyTorch stores them. A
    transposed convolution and a ``Conv1D`` of GPT-2 store their inputs first and cannot be told
    apart; they are judged along the wrong axis.

    >>> part("layers.0.fc1.weight", (64, 32)), part("norm.weight", (64,))
    (<Part.PRODUCT: 'product'>, <Part.OTHER: 'other'>)
    >>> part("model.embed_tokens.weight", (1000, 64)), part("dw.weight", (64, 1, 3, 3))
    (<Part.EMBEDDING: 'embedding'>, <Part.NARROW: 'narrow'>)
    """
    low = name.lower()
    last = low.rpartition(".")[2]
    if len(shape) < 2 or any(word in low for word in _POSITIONS) or last not in _WEIGHTS:
        return Part.OTHER
    if any(word in low for word in _EMBEDDINGS) and len(shape) == 2 and "patch" not in low:
        return Part.EMBEDDING
    if len(shape) > 5 or (len(shape) == 3 and "expert" in low):
        return Part.OTHER
    return Part.PRODUCT if shape[1] >= NVFP4.block // 2 else Part.NARROW


def site_of(name: str) -> str:
    """The module that a weight belongs to.

    >>> site_of("layers.0.fc1.weight"), site_of("in_proj_weight")
    ('layers.0.fc1', 'in_proj_weight')
    """
    return name.removesuffix(".weight") if name != "weight" else ""
