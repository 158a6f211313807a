"""One opaque operation through which a compiled model hands its tensors over.

A hook that keeps Python state, or decides by it, breaks a compiled graph or has it compiled anew.
So a hook that is traced leaves one call of ``qprobe::observe`` in the graph, whatever the schedule,
and the body decides, each time it runs, whether this call counts. It changes a token that nobody
reads, so that the compiler neither drops it nor moves two calls of it past each other.
"""

from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from qprobe.sites.attention import Attended
from qprobe.sites.reshaped import base_of


class Watcher(Protocol):
    """Who is told when the operation runs."""

    def seen(self, slot: int, tensor: Tensor, *, call: int, recording: bool) -> None:
        """A tensor of the site that has this number, of a call in a compiled graph.

        ``recording``: whether gradients were recorded around it.
        """

    def attended(self, slots: Sequence[int], attended: Attended, *, recording: bool) -> None:
        """What the logits at these sites are made of."""


_numbers = count()
_watchers: WeakValueDictionary[int, Watcher] = WeakValueDictionary()

_library = torch.library.Library("qprobe", "DEF")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "observe(Tensor x, Tensor(a!) token, int watcher, int slot, int call, bool recording) -> ()",
    tags=(torch.Tag.cudagraph_unsafe,),
)
_library.define(  # type: ignore[no-untyped-call]
    "attend(Tensor q, Tensor k, Tensor? mask, float? scale, bool causal, Tensor(a!) token, "
    "int watcher, int[] slots, bool recording) -> ()",
    tags=(torch.Tag.cudagraph_unsafe,),
)


def register(watcher: Watcher) -> int:
    """The number by which the operation knows ``watcher``, as long as it lives."""
    number = next(_numbers)
    _watchers[number] = watcher
    return number


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def observe_gradient(  # noqa: PLR0913 - a graph takes numbers, and no object that holds them
    x: Tensor, token: Tensor, watcher: int, slot: int, call: int, reshaped: bool
) -> Tensor:
    """Have the gradient of ``x`` observed, from the graph that makes ``x``.

    The graph calls this function as it stands. A ``register_hook`` that the compiler traces itself
    is none of the graph: while PyTorch 2.13 traces what the hook does it loses sight of the objects
    that the model has made before, such as a cache of keys, and from then on reads attributes of
    theirs as they were, which ends in a broken graph or in other numbers.

    ``reshaped``: ``x`` may be another shape of what its layer has computed.
    """
    base = base_of(x) if reshaped else None
    hooked, shape = (x, None) if base is None else (base, x.shape)
    hook = partial(_observe_gradient, token, (watcher, slot, call), shape)
    hooked.register_hook(hook)  # type: ignore[no-untyped-call]
    return x


torch.fx.node.has_side_effect(observe_gradient)  # nobody has to read what it returns


def _observe_gradient(
    token: Tensor, which: tuple[int, int, int], shape: torch.Size | None, gradient: Tensor
) -> None:
    gradient = gradient.detach() if shape is None else gradient.detach().view(shape)
    torch.ops.qprobe.observe(gradient, token, *which, False)


def _observe(  # noqa: PLR0913 - the schema of the operation
    x: Tensor, token: Tensor, watcher: int, slot: int, call: int, recording: bool
) -> None:
    del token
    told = _watchers.get(watcher)
    if told is not None:
        told.seen(slot, x, call=call, recording=recording)


def _attend(  # noqa: PLR0913 - the schema of the operation
    q: Tensor,
    k: Tensor,
    mask: Tensor | None,
    scale: float | None,
    causal: bool,
    token: Tensor,
    watcher: int,
    slots: Sequence[int],
    recording: bool,
) -> None:
    del token
    told = _watchers.get(watcher)
    if told is not None:
        attended = Attended(q=q, k=k, mask=mask, scale=scale, causal=causal)
        told.attended(slots, attended, recording=recording)


def _nothing(*_: object) -> None:
    """What tracing with tensors that hold no values does, and :func:`torch.func.vmap`.

    The dimension that vmap adds is in no shape, and which axis the channels are is not known then.
    """


for _name, _body in (("observe", _observe), ("attend", _attend)):
    _library.impl(_name, _body, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"qprobe::{_name}", _nothing, lib=_library)
    _library.impl(_name, _nothing, "FuncTorchBatched")  # type: ignore[no-untyped-call]
