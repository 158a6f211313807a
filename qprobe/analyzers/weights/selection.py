"""Which stored tensors are operands of a matrix product, told by name and shape alone."""

from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import Tensor

from qprobe.quant.formats import NVFP4


class Part(StrEnum):
    """What a stored tensor is for."""

    PRODUCT = "product"
    """A weight of a linear layer or convolution: recipes quantize it, findings are about it."""
    EMBEDDING = "embedding"
    """A table that is looked up: recipes leave it alone; measured, not ranked."""
    NARROW = "narrow"
    """A depth-wise or single-input weight, too narrow for a block; measured, not ranked."""
    STACK = "stack"
    """Weights of several experts in one tensor; looked at for NaN and infinity."""
    OTHER = "other"
    """Norms, biases, tables of positions: looked at for NaN and infinity."""
    UNREAD = "unread"
    """Integers in a packing that is not read: nothing is known of them."""


#: In the name of the module that looks up; an ``embedder`` multiplies, and so do layers within.
_EMBEDDINGS = ("embed", "wte", "wpe", "lookup", "relative_attention_bias")
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
    >>> part("time_embedding.linear_1.weight", (320, 64))  # a layer within an embedding
    <Part.PRODUCT: 'product'>
    """
    low = name.lower()
    module, _, last = low.rpartition(".")
    if len(shape) == 3 and "expert" in low:
        return Part.STACK
    if len(shape) < 2 or any(word in low for word in _POSITIONS) or last not in _WEIGHTS:
        return Part.OTHER
    if len(shape) == 2 and _looks_up(module):
        return Part.EMBEDDING
    if len(shape) > 5:
        return Part.OTHER
    return Part.PRODUCT if shape[1] >= NVFP4.block // 2 else Part.NARROW


def unread(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of integers holds a weight in a packing that is not read.

    Counters, positions and masks are no weights, whatever their type.
    """
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        return False
    return tensor.dim() >= 2 and (
        name.lower().rpartition(".")[2] in _WEIGHTS or tensor.dtype in (torch.uint8, torch.int8)
    )


def _looks_up(module: str) -> bool:
    """Whether a module is an embedding, by its own name and not by those it lies in."""
    own = module.rpartition(".")[2]
    words = any(word in own for word in _EMBEDDINGS) and "embedder" not in own
    return module == "shared" or (words and "patch" not in own)


def site_of(name: str) -> str:
    """The module that a weight belongs to.

    >>> site_of("layers.0.fc1.weight"), site_of("in_proj_weight")
    ('layers.0.fc1', 'in_proj_weight')
    """
    return name.removesuffix(".weight") if name != "weight" else ""
