"""The call of a linear layer that queries or keys are a part of, and which part."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from qprobe.quant.products import Setup, first_setup
from qprobe.quant.transposed import stores_transposed


class Rows(NamedTuple):
    """Which rows of a layer's weight make up one head."""

    first: int
    step: int
    width: int

    def of(self, w: Tensor) -> Tensor:
        """These rows of ``[outputs, ...]``."""
        return w[self.first : self.first + self.step * (self.width - 1) + 1 : self.step]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Projection:
    """One call of a linear layer, ``input · weightᵀ + bias``; not what it returned.

    ``weight`` is ``[outputs, inputs]``, ``setup`` the recipe that was in force.
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    #: The layer.
    module: torch.nn.Module | None = None
    #: Where the output began in its storage.
    offset: int = 0
    #: How often the output had been written to when it was returned.
    version: int = 0
    #: The dtype of what the call returned, to which autocast has it cast what it takes.
    dtype: torch.dtype = torch.float32
    setup: Setup | None = None

    def taken(self, samples: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input of some samples, weight and bias, as the call took them.

        >>> x, w = torch.ones(2, 5, 8), torch.ones(24, 8)
        >>> call = Projection(input=x, weight=w, bias=None, dtype=torch.bfloat16)
        >>> [None if one is None else one.dtype for one in call.taken(torch.tensor([1]))]
        [torch.bfloat16, torch.bfloat16, None]
        """
        bias = None if self.bias is None else self.bias.to(self.dtype)
        return self.input.index_select(0, samples).to(self.dtype), self.weight.to(self.dtype), bias

    def rows(self, part: Tensor, head: int) -> Rows | None:
        """The rows that made one head of ``part``, ``[batch, heads, tokens, head_dim]``.

        ``part`` is a view of the contiguous ``[batch, tokens, outputs]`` that the call returned;
        None where it has other samples or tokens, or has them in another order.

        >>> x, w = torch.ones(2, 5, 8), torch.ones(24, 8)
        >>> q, k, v = (x @ w.T).view(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        >>> Projection(input=x, weight=w, bias=None).rows(k, 1)
        Rows(first=12, step=1, width=4)
        """
        if part.dim() != 4 or self.input.dim() != 3:
            return None
        batch, heads, tokens, width = part.shape
        size = len(self.weight)
        if tuple(self.input.shape[:2]) != (batch, tokens) or not 0 <= head < heads:
            return None
        strides = part.stride()
        first = int(part.storage_offset()) - self.offset + head * strides[1]
        last = first + (width - 1) * strides[3]
        by_sample = batch == 1 or strides[0] == tokens * size
        by_token = tokens == 1 or strides[2] == size
        if not (by_sample and by_token and 0 <= first <= last < size):
            return None
        return Rows(first, max(1, strides[3]), width)


class Projections:
    """Remembers the calls of linear layers for as long as what they returned is alive.

    >>> layer = torch.nn.Linear(8, 24)
    >>> seen, x = Projections(), torch.ones(2, 5, 8)
    >>> y = layer(x)
    >>> seen.note(layer, x, y)
    >>> q, k, v = y.view(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    >>> list(seen.of(q, k)[0].input.shape), seen.of(q * 2, k)
    ([2, 5, 8], None)
    """

    def __init__(self) -> None:
        self._calls: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def note(self, module: torch.nn.Module, x: Tensor, y: Tensor) -> None:
        """``module``, a linear layer, has returned ``y``. Its input is kept as long as ``y``."""
        weight: Tensor = module.weight  # type: ignore[assignment]
        sharded = hasattr(weight, "to_local")
        if sharded or x.dim() != 3 or not y.is_contiguous() or y.shape[-1] not in weight.shape:
            return
        bias = getattr(module, "bias", None)
        self._calls[_base(y)] = Projection(
            input=x.detach(),
            weight=weight.detach().mT if stores_transposed(module) else weight.detach(),
            bias=None if bias is None else bias.detach(),
            module=module,
            offset=int(y.storage_offset()),
            version=y._version,  # noqa: SLF001
            dtype=y.dtype,
            setup=first_setup((module,)),
        )

    def of(self, q: Tensor, k: Tensor) -> tuple[Projection, Projection] | None:
        """The calls whose outputs q and k are views of; None unless both are.

        What was computed from an output (scaled, rotated, normalised, copied) is no view of it, and
        an output that was written to since is not what the layer returned.
        """
        bases = _base(q), _base(k)
        if any(base not in self._calls for base in bases):
            return None
        first, second = (self._calls[base] for base in bases)
        written = any(self._calls[one].version != one._version for one in bases)  # noqa: SLF001
        freed = any(not call.weight.untyped_storage().nbytes() for call in (first, second))
        # A sharded weight is whole for its layer alone.
        return None if freed or written else (first, second)

    def clear(self) -> None:
        """Forget all calls."""
        self._calls.clear()


def _base(tensor: Tensor) -> Tensor:
    base = tensor._base  # noqa: SLF001
    return tensor if base is None else base
