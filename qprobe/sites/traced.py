"""What a compiled model hands over: calls in its graph, and whom they reach when it runs."""

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Protocol

import torch
from torch import Tensor

from qprobe.sites import op
from qprobe.sites.attention import Attended
from qprobe.sites.site import Site

_calls = count()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def traced_call() -> int:
    """A number that no other traced call has.

    It is drawn once, when the call is traced, and is a constant in the graph: a count that hooks
    keep themselves would be a state, by which the graph were compiled anew at each call.

    >>> traced_call() < traced_call()
    True
    """
    return next(_calls)


class Listener(Protocol):
    """Who is told when compiled code runs, with no word of Python in the graph itself."""

    def arrived(self, site: Site, tensor: Tensor, call: int, *, recording: bool) -> None:
        """Take one tensor of a call, made while gradients were, or were not, recorded."""

    def drew(self, sites: Sequence[Site], attended: Attended, *, recording: bool) -> None:
        """Take what logits are made of."""


class Traced:
    """Leaves calls in a graph that is being traced, which tell ``listener`` of ``sites``."""

    def __init__(self, sites: Iterable[Site], listener: Listener) -> None:
        self._listener = listener
        self._sites = tuple(sites)
        self._slots = {site: slot for slot, site in enumerate(self._sites)}
        self._token = torch.zeros(1)
        self._number = op.register(self)

    def deliver(self, site: Site, tensor: Tensor, call: int = 0) -> None:
        """Hand ``tensor`` over whenever the graph runs."""
        slot, recording = self._slots[site], torch.is_grad_enabled()
        torch.ops.qprobe.observe(tensor.detach(), self._token, self._number, slot, call, recording)

    def on_gradient(self, site: Site, tensor: Tensor, call: int, *, reshaped: bool) -> None:
        """Hand over the gradient of ``tensor`` whenever there is one."""
        op.observe_gradient(tensor, self._token, self._number, self._slots[site], call, reshaped)

    def attend(self, sites: Iterable[Site], attended: Attended) -> None:
        """Hand over what logits are made of; what to sample is decided while the graph runs."""
        slots = [self._slots[site] for site in sites]
        if not slots:
            return
        q, k, mask = attended.q.detach(), attended.k.detach(), attended.mask
        torch.ops.qprobe.attend(
            *(q, k, None if mask is None else mask.detach(), attended.scale, attended.causal),
            *(self._token, self._number, slots, torch.is_grad_enabled()),
        )

    def seen(self, slot: int, tensor: Tensor, *, call: int, recording: bool) -> None:
        """The graph runs, and has a tensor."""
        _uncount(self._token)
        self._listener.arrived(self._sites[slot], tensor, call, recording=recording)

    def attended(self, slots: Sequence[int], attended: Attended, *, recording: bool) -> None:
        """The graph runs, and has what logits are made of."""
        _uncount(self._token)
        sites = [self._sites[slot] for slot in slots]
        self._listener.drew(sites, attended, recording=recording)


def _uncount(token: Tensor) -> None:
    """Let nobody count how often ``token`` was written to.

    Backward passes write to it as well, so autograd keeps it from the forward pass on, and would
    refuse to go backward if the model has run a second time in between.
    """
    torch._C._autograd._unsafe_set_version_counter((token,), (0,))  # noqa: SLF001
