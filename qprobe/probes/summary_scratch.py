"""Working memory of a summary in PyTorch, kept from call to call.

Memory for every result anew would be taken from the system and given back each time, and the first
write to a page of it costs more than the arithmetic.
"""

import threading

import torch
from torch import Tensor

#: Buffers that there are.
COUNT = 3

#: Shapes of which views are kept.
_SHAPES = 256


class _Memory(threading.local):
    """What one thread holds."""

    def __init__(self) -> None:
        self.held = torch.empty(COUNT, 0)
        self.views: dict[torch.Size, tuple[Tensor, ...]] = {}


_memory = _Memory()


def scratch(like: Tensor) -> tuple[Tensor, ...]:
    """Three float32 buffers of the shape of ``like`` and on its device, with anything in them.

    On a CPU they are those of the last call of this thread; elsewhere PyTorch keeps memory itself.
    """
    if like.device.type != "cpu":
        return tuple(torch.empty(COUNT, *like.shape, device=like.device).unbind())
    found = _memory.views.get(like.shape)
    if found is None:
        size = like.numel()
        if _memory.held.shape[1] < size or len(_memory.views) == _SHAPES:
            _memory.views.clear()
        if _memory.held.shape[1] < size:
            _memory.held = torch.empty(COUNT, size)
        found = tuple(row[:size].view(like.shape) for row in _memory.held.unbind())
        _memory.views[like.shape] = found
    return found
