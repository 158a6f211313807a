"""Tensors of one call that become known at different times, held as a few examples."""

from typing import Final

import torch
from torch import Tensor

from qprobe.probes.assignment import Slot
from qprobe.records.schema import Role

#: Examples of a batch that are held, or more where these have fewer tokens than this.
EXAMPLES: Final = 4
TOKENS: Final = 512
#: Calls of one module whose other tensors are awaited at a time; older ones are given up.
WAITING: Final = 64
_LEARNED: Final = frozenset({Role.WEIGHT, Role.GRAD_WEIGHT})
_LATE: Final = frozenset({Role.GRAD_OUTPUT})


class _Call:
    """What is known of one call."""

    def __init__(self, batch: int, examples: Tensor | None) -> None:
        self.batch = batch
        self.examples = examples
        self.tensors: dict[Role, Tensor] = {}


class Pending:
    """Holds copies of the same examples of all tensors of a call until the last one has come.

    Copies, because a compiled model uses the memory of its tensors again. In eager passes calls
    are told apart by pass and number. A compiled graph numbers its calls and does not know in which
    pass it runs: where it runs again before the backward of its first run, a gradient belongs to
    the latest call that still lacks one, which is the order in which backward visits them.
    """

    def __init__(self) -> None:
        self._calls: dict[tuple[Slot, int, int], list[_Call]] = {}
        #: Calls that were completed while others of the same name waited.
        self._guessed: set[tuple[Slot, int, int]] = set()

    def __len__(self) -> int:
        return sum(len(calls) for calls in self._calls.values())

    def clear(self) -> tuple[Slot, ...]:
        """Give up what is not complete; whose calls may have been mistaken for each other."""
        mistaken = tuple(dict.fromkeys(key[0] for key in self._guessed & self._calls.keys()))
        self._calls.clear()
        self._guessed.clear()
        return mistaken

    def add(
        self, slot: Slot, role: Role, tensor: Tensor, *, call: tuple[int, int], draw: int
    ) -> dict[Role, Tensor] | None:
        """Take the examples of one more tensor; all of them, once the call is complete.

        ``call`` is the pass, and which call of the module it is in there.
        """
        key = slot, *call
        calls = self._calls.setdefault(key, [])
        if role not in _LATE and (not calls or role in calls[-1].tensors):
            calls.append(_Call(_batch(tensor), choose(tensor, draw)))
            del calls[:-WAITING]
        if not calls:
            if len(slot.sites) > 1:  # the gradient of a call that was not looked at
                return None
            calls.append(_Call(_batch(tensor), choose(tensor, draw)))
        latest = calls[-1]
        if role in _LEARNED:  # read together, between passes
            latest.tensors[role] = tensor
        else:
            examples = latest.examples if _batch(tensor) == latest.batch else choose(tensor, draw)
            latest.tensors[role] = _picked(tensor, examples)
        if len(latest.tensors) < len(slot.sites):
            return None
        calls.pop()
        if calls:
            self._guessed.add(key)
        else:
            del self._calls[key]
        return latest.tensors


def _batch(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.dim() > 1 else 1


def choose(tensor: Tensor, draw: int) -> Tensor | None:
    """Which examples of a batch to hold, evenly spread; None for all of them.

    On the tensor's device: to copy them there would wait for it.

    >>> choose(torch.zeros(16, 196, 8), draw=5)
    tensor([ 1,  5,  9, 13])
    """
    batch = _batch(tensor)
    if not tensor.numel():
        return None
    tokens = tensor.numel() // (batch * max(1, tensor.shape[-1])) if tensor.dim() > 1 else 1
    count = max(EXAMPLES, -(-TOKENS // max(1, tokens)))
    if count >= batch:
        return None
    spread = batch // count
    return torch.arange(count, device=tensor.device) * spread + draw % spread


def _picked(tensor: Tensor, examples: Tensor | None) -> Tensor:
    if examples is None:
        return tensor.clone()
    return tensor.index_select(0, examples.to(tensor.device))
