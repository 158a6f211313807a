"""Calls of a model's modules: what went in and came out, with the gradients of both.

They are copies, and a model's activations may fill a machine. So there is a budget of bytes: a pass
forward and backward keeps what the budget holds, and what it does not hold waits for another pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from qprobe.analyzers.base import Subject
from qprobe.errors import InputError

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

#: Arguments that a second call finds as the first one did: no caches, no iterators.
_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.Size)


@dataclass(slots=True, eq=False)
class Call:
    """The first call of one module: what went in and came out, and the gradients of both."""

    path: str
    module: nn.Module
    #: Arguments, flattened; tensors are copies.
    leaves: list[Any]
    structure: Any
    #: Whether a second call finds the same arguments; if not, no tensor is kept.
    plain: bool
    #: Bytes of the copies, those of gradients included that are still to come.
    held_bytes: int
    outputs: list[Tensor] = field(default_factory=list)
    into: dict[int, Tensor] = field(default_factory=dict)
    out_of: dict[int, dict[int, Tensor]] = field(default_factory=dict)
    #: Outputs under the name that other hooks and modules know them by.
    aliases: dict[int, Tensor] = field(default_factory=dict)
    #: Whether it was given up for another pass: gradients that still come are not kept.
    waits: bool = False

    @property
    def held(self) -> list[tuple[int, Tensor]]:
        """The outputs that a gradient came back to, by number, with it."""
        return [(at, found[0]) for at, found in self.out_of.items() if found]

    def again(self, position: int | None = None, moved: Tensor | None = None) -> list[Tensor]:
        """The outputs of one more call, with one argument moved."""
        leaves = [one.clone() if isinstance(one, Tensor) else one for one in self.leaves]
        if position is not None and moved is not None:
            leaves[position] += moved
        args, kwargs = tree_unflatten(leaves, self.structure)
        return _tensors(self.module(*args, **kwargs))

    def forget(self) -> None:
        """Let go of every tensor, and take no gradient that still comes."""
        self.waits = True
        for kept in (self.leaves, self.outputs, self.into, self.out_of, self.aliases):
            kept.clear()


def watched_calls(subject: Subject, budget: int) -> Iterator[Call]:
    """Every module's first call in a pass forward and backward over the first batch.

    The copies of all calls that are alive together take at most ``budget`` bytes, or those of one
    call where it takes more by itself; hold one call at a time. There is a pass for each budget
    that the copies of the whole model would fill, one where it holds them all.
    """
    batch = next(iter(subject.batches()), None)
    if batch is None:
        raise InputError(f"{subject.name} has no batch to look at; give batches() some.")
    seen: set[str] = set()
    while True:
        watch = _Watch(subject.model, budget, frozenset(seen))
        try:
            losses = subject.loss(subject.forward(subject.model, batch), batch)
        finally:
            watch.close()
        if not losses.requires_grad:
            raise InputError("the loss does not depend on anything that is learned.")
        losses.sum().backward()  # type: ignore[no-untyped-call]
        del losses  # it holds the graph, and so do the aliases
        seen |= watch.calls.keys()
        yield from watch.handed_over()
        if not watch.waiting or not watch.calls:
            return


class _Watch:
    """Puts aliases where tensors enter and leave modules, and keeps what passes through them."""

    def __init__(self, model: nn.Module, budget: int, seen: frozenset[str]) -> None:
        #: Calls that are over, in the order in which they ended.
        self.calls: dict[str, Call] = {}
        #: Modules whose turn comes in another pass.
        self.waiting: set[str] = set()
        self._budget = budget
        #: Bytes of all calls that are kept or under way.
        self._held_bytes = 0
        self._under_way: list[Call | None] = []
        self._handles: list[RemovableHandle] = []
        for path, module in model.named_modules():
            if path and path not in seen:
                # First and last of all hooks, so that whatever hooks do is part of the module.
                enter = module.register_forward_pre_hook(
                    self._entering(path), prepend=True, with_kwargs=True
                )
                made = module.register_forward_hook(self._made, prepend=True)
                self._handles += [enter, made, module.register_forward_hook(self._left)]

    def close(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def handed_over(self) -> Iterator[Call]:
        """The calls, each of which is let go of when the next one is asked for."""
        for call in self.calls.values():
            call.aliases.clear()
        for call in self.calls.values():
            if call.held:
                yield call
            call.forget()

    def _entering(self, path: str) -> Any:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
            leaves, structure = tree_flatten((args, kwargs))
            plain = all(isinstance(one, (Tensor, *_PLAIN)) for one in leaves)
            needed = sum(_bytes(one) for one in leaves) if plain else 0
            first = path not in self.calls and path not in self.waiting
            if not first or not self._fits(needed, self._held_bytes):
                self.waiting.update([path] if first else [])
                self._under_way.append(None)
                return None
            kept = [one.detach().clone() if isinstance(one, Tensor) else one for one in leaves]
            call = Call(path, module, kept if plain else [], structure, plain, needed)
            self._held_bytes += needed
            self._under_way.append(call)
            aliases = [_alias(one, call, call.into, at) for at, one in enumerate(leaves)]
            return tree_unflatten(aliases, structure)

        return enter

    def _fits(self, needed: int, others: int) -> bool:
        """Whether there is room for ``needed`` bytes more; always, where no other call is held."""
        return not others or self._held_bytes + needed <= self._budget

    def _made(self, _: nn.Module, __: Any, output: Any) -> Any:
        """Before other hooks: they may keep the output for somebody else (transformers do)."""
        call = self._under_way[-1]
        return None if call is None else self._aliased(call, output)

    def _left(self, _: nn.Module, __: Any, output: Any) -> Any:
        """After other hooks: what they have put in place of an output is the output."""
        call = self._under_way.pop()
        if call is None or call.waits:
            return None
        output = self._aliased(call, output)
        outputs = _tensors(output)
        needed = sum(_bytes(one) for one in outputs) if call.plain else 0
        if not self._fits(needed, self._held_bytes - call.held_bytes):
            self._held_bytes -= call.held_bytes
            call.forget()
            self.waiting.add(call.path)
        else:
            self._held_bytes += needed
            call.held_bytes += needed
            call.outputs = [one.detach().clone() for one in outputs] if call.plain else []
            self.calls[call.path] = call
        return output

    def _aliased(self, call: Call, output: Any) -> Any:
        leaves, structure = tree_flatten(output)
        tensors = [at for at, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        for number, at in enumerate(tensors):
            if id(leaves[at]) not in call.aliases:
                # A later name of an output replaces an earlier one, and so does its gradient.
                gradients = call.out_of[number] = dict[int, Tensor]()
                leaves[at] = _alias(leaves[at], call, gradients, 0)
                call.aliases[id(leaves[at])] = leaves[at]
        return tree_unflatten(leaves, structure)


def _tensors(output: object) -> list[Tensor]:
    return [one for one in tree_leaves(output) if isinstance(one, Tensor)]


def _bytes(leaf: object) -> int:
    """What a copy takes, and the gradient that comes back to it.

    >>> _bytes(torch.zeros(10)), _bytes(torch.zeros(10, requires_grad=True)), _bytes("eager")
    (40, 80, 0)
    """
    return leaf.nbytes * (2 if leaf.requires_grad else 1) if isinstance(leaf, Tensor) else 0


def _alias(leaf: Any, call: Call, gradients: dict[int, Tensor], at: int) -> Any:
    """The same tensor under another name, whose gradient is kept unless the call waits."""
    if not (isinstance(leaf, Tensor) and leaf.requires_grad):
        return leaf
    alias = leaf.view_as(leaf)

    def keep(gradient: Tensor) -> None:
        if not call.waits:  # of what is not tried it counts only that a gradient came
            gradients[at] = gradient.detach().clone() if call.plain else gradient.new_empty(0)

    alias.register_hook(keep)  # type: ignore[no-untyped-call]
    return alias
