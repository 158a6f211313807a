"""Working memory of a summary in PyTorch, kept from call to call.

Memory for every result anew would be taken from the system and given back each time, and the first
write to a page of it costs more than the arithmetic.
"""

import threading

import torch
from torch import Tensor

#: Buffers that there are.
COUNT = 3

_memory = threading.local()


def scratch(like: Tensor) -> tuple[Tensor, ...]:
    """Three float32 buffers of the shape of ``like`` and on its device, with anything in them.

    On a CPU they are those of the last call of this thread; elsewhere PyTorch keeps memory itself.
    """
    if like.device.type != "cpu":
        return tuple(torch.empty(COUNT, *like.shape, device=like.device).unbind())
    size = like.numel()
    held: Tensor | None = getattr(_memory, "held", None)
    if held is None or held.shape[1] < size:
        held = _memory.held = torch.empty(COUNT, size)
    return tuple(row[:size].view(like.shape) for row in held.unbind())
