"""Reaches the tensors of calls inside modules: branches of fusions, operands of attention."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from qprobe.errors import InputError
from qprobe.records.schema import Role
from qprobe.sites.attention import Attended, Logits, Materialized, of_fused
from qprobe.sites.calls import (
    WHOLE,
    Call,
    Calls,
    in_backward,
    in_place,
    is_compiled,
    operation_of,
)
from qprobe.sites.scores import Attention, Scaled
from qprobe.sites.site import Site
from qprobe.sites.trace import Fusion, Trace


class Target(Protocol):
    """Who is told."""

    def deliver(self, site: Site, tensor: Tensor) -> None:
        """Take one tensor."""

    def attend(self, sites: Iterable[Site], attended: Logits) -> None:
        """Take logits and probabilities."""

    def on_gradient(self, tensor: Tensor, hook: Any) -> None:
        """Have ``hook`` called with a gradient."""


@dataclass(slots=True)
class _Plan:
    """What to do at one call."""

    branches: list[tuple[int, Site]] = field(default_factory=list)
    #: Of an operand of attention its position, the order of its axes, and its site.
    operands: list[tuple[int, tuple[int, ...] | None, Site]] = field(default_factory=list)
    attending: list[Site] = field(default_factory=list)
    #: At the product of queries and keys, and at its softmax: how they lie.
    attention: Attention | None = None
    #: Where queries or keys are multiplied with a number: the product and their position in it.
    unscaled: list[tuple[Call, int, Scaled]] = field(default_factory=list)


class _Sum:
    """Adds up the gradients with which a branch leaves the shared tensor, in several calls."""

    def __init__(self, expected: int, hand_over: Callable[[Tensor], None]) -> None:
        self._expected = expected
        self._hand_over = hand_over
        self._total: Tensor | None = None

    def add(self, gradient: Tensor) -> None:
        """One more; the last hands over the sum."""
        self._expected -= 1
        if self._expected == 0:
            total = gradient if self._total is None else self._total + gradient
            self._total = None
            self._hand_over(total)
        else:
            self._total = gradient.clone() if self._total is None else self._total + gradient


class Intercept(TorchFunctionMode):
    """Watches the planned calls, known by module, operation and number in the pass.

    An alias is put in the place of each argument whose gradient is wanted: directly before the call
    that takes it, so that autograd adds gradients in the order in which it did without.
    """

    def __init__(
        self, model: nn.Module, sites: Iterable[Site], trace: Trace, target: Target
    ) -> None:
        super().__init__()
        self._silent = False
        self._calls = Calls(model, self)
        self._target = target
        self._plans: dict[Call, _Plan] = {}
        self._sums: dict[Site, _Sum] = {}
        self._expected: dict[Site, int] = {}
        #: Queries and keys of the products whose softmax is still to come.
        self._kept: dict[Call, tuple[Tensor, Tensor, float]] = {}
        #: Operands of products that are still to come, as they were before a number scaled them.
        self._unscaled: dict[tuple[Call, int], tuple[Tensor, float]] = {}
        found: dict[str, Fusion | Attention] = {str(one.call): one for one in trace.fusions}
        found |= {str(one.product): one for one in trace.attentions}
        for site in sites:
            node = found[site.path]
            if isinstance(node, Fusion):
                self._plan_branch(site, node)
            else:
                self._plan_attention(site, node)
        self._operations = {call.operation for call in self._plans}
        _refuse_compiled(model, next(iter(self._plans)))

    def begin(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Enter from within a call of the model with these arguments; they may be replaced."""
        self._silent = False
        self.__enter__()  # type: ignore[no-untyped-call]
        return self._calls.begin(args, kwargs)

    def silence(self) -> None:
        """See nothing more, in a pass of another thread that is still under way."""
        self._silent = True

    def end(self) -> None:
        """Leave, at the end of that call."""
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._calls.__exit__()
        self._kept.clear()
        self._unscaled.clear()

    def entered(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Called at each module: the start of a pass, or a branch that begins there."""
        if not call.path and call.number == 0 and not in_backward():
            self._sums.clear()
        plan = self._plans.get(call)
        if plan is None or in_backward():  # what is computed again was seen
            return None
        leaves, structure = tree_flatten((args, kwargs))
        self._alias(call, plan, leaves)
        replaced: tuple[tuple[Any, ...], dict[str, Any]] = tree_unflatten(leaves, structure)
        return replaced

    def left(self, call: Call, output: object) -> None:
        """Nothing to do."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operation = operation_of(func)
        if self._silent or operation not in self._operations:
            return func(*args, **kwargs)
        call = self._calls.count(operation)
        plan = self._plans.get(call)
        if plan is None or in_backward():  # what is computed again was seen
            return func(*args, **kwargs)
        self._look(call, plan, args, kwargs)
        self._attend(call, plan, (args, kwargs))
        if not plan.branches:
            return func(*args, **kwargs)
        leaves, structure = tree_flatten((args, kwargs))
        late = self._alias(call, plan, leaves, overwrites=in_place(func, kwargs))
        args, kwargs = tree_unflatten(leaves, structure)
        output = func(*args, **kwargs)
        if late is not None and output.requires_grad:
            self._target.on_gradient(output, late)
        return output

    def _alias(
        self, call: Call, plan: _Plan, leaves: list[Any], *, overwrites: bool = False
    ) -> Callable[[Tensor], None] | None:
        """Put aliases where gradients are wanted; what must be hooked to the result instead.

        The last comes first: autograd visits aliases in the reverse of their order.
        """
        late = None
        for position, site in sorted(plan.branches, key=lambda one: one[0], reverse=True):
            tensor = leaves[position]
            if not (torch.is_grad_enabled() and tensor.requires_grad):
                continue
            total = self._sums.get(site)
            if total is None:
                total = _Sum(self._expected[site], partial(self._target.deliver, site))
                self._sums[site] = total
            if overwrites and position == 0:
                # A view that is overwritten loses its hooks, the tensor itself does not. A sum that
                # is written into it is not what it was, but has its gradient.
                if call.operation == "add":
                    late = total.add
                else:
                    self._target.on_gradient(tensor, total.add)
                continue
            alias = tensor.view_as(tensor)
            leaves[position] = alias
            if call.operation in WHOLE:  # it may ask whether query, key and value are one tensor
                leaves[:] = [alias if leaf is tensor else leaf for leaf in leaves]
            self._target.on_gradient(alias, total.add)
        return late

    def _plan_branch(self, site: Site, fusion: Fusion) -> None:
        branch = fusion.branches[site.index]
        exits = branch.exits or ((fusion.call, branch.position),)
        self._expected[site] = len(exits)
        for call, position in exits:
            self._at(call).branches.append((position, site))

    def _plan_attention(self, site: Site, attention: Attention) -> None:
        product, softmax, mix = attention.product, attention.softmax, attention.mix
        if site.role is not Role.INPUT:
            self._at(softmax or product).attending.append(site)
            if softmax is not None:
                self._at(product).attention = self._at(softmax).attention = attention
            for position, scaled in attention.scaled:
                self._at(scaled.call).unscaled.append((product, position, scaled))
            return
        layout, value = attention.layout, attention.value
        if mix is None or layout is None or value is None:
            self._at(product).operands.append((site.index, None, site))
        elif site.index == 2:
            self._at(mix).operands.append((*value, site))
        else:
            place = (layout.query, layout.query_axes), (layout.key, layout.key_axes)
            self._at(product).operands.append((*place[site.index], site))

    def _at(self, call: Call) -> _Plan:
        return self._plans.setdefault(call, _Plan())

    def _look(self, call: Call, plan: _Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the call: operands of attention, and what its logits are made of."""
        leaves = tree_leaves((args, kwargs))
        for position, axes, site in plan.operands:
            tensor = leaves[position]
            self._target.deliver(site, tensor if axes is None else tensor.permute(axes))
        for product, position, scaled in plan.unscaled:
            self._unscaled[product, position] = leaves[scaled.position], scaled.factor
        attention = plan.attention
        if attention is None or attention.softmax is None or call != attention.product:
            return
        layout = attention.layout
        if layout is not None and attention.scale is not None:
            places = (layout.query, layout.key)
            (q, by_q), (k, by_k) = (
                self._unscaled.pop((call, at), (leaves[at], 1.0)) for at in places
            )
            q, k = q.permute(layout.query_axes), k.permute(layout.key_axes)
            self._kept[attention.softmax] = q, k, attention.scale * by_q * by_k

    def _attend(self, call: Call, plan: _Plan, given: tuple[Any, ...]) -> None:
        if not plan.attending:
            return
        args, kwargs = given
        if call.operation == "softmax":
            logits = next(leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor))
            made = self._made(call, plan.attention, logits)
            self._target.attend(plan.attending, made)
        else:
            self._target.attend(plan.attending, of_fused(args, kwargs))

    def _made(self, call: Call, attention: Attention | None, logits: Tensor) -> Logits:
        """Logits that the model has made, with queries and keys where these are of their shape."""
        q, k, scale = self._kept.pop(call, (None, None, None))
        if attention is None:
            return Materialized(logits)
        layout = attention.layout
        if layout is not None and logits.dim() == len(layout.logit_axes):
            logits = logits.permute(layout.logit_axes)
        elif layout is not None and layout.logit_axes[-1] != len(layout.logit_axes) - 1:
            logits = logits.mT
        logits = _unfolded(logits, attention.heads)
        if q is None or k is None or scale is None:
            return Materialized(logits)
        q, k = (_unfolded(one, attention.heads, logits.shape[:-2]) for one in (q, k))
        batch, sizes = logits.shape[:-2], (q.shape[-2], k.shape[-2])
        if sizes != tuple(logits.shape[-2:]) or not (_fits(q, batch) and _fits(k, batch)):
            return Materialized(logits)
        q, k = (one.expand(*batch, *one.shape[-2:]) for one in (q, k))
        return Attended(q=q, k=k, scale=scale, made=logits)


def _unfolded(tensor: Tensor, heads: int | None, batch: Sequence[int] = ()) -> Tensor:
    """``[samples * heads, ...]`` as ``[samples, heads, ...]``: like the logits, or by ``heads``."""
    if tensor.dim() != 3:
        return tensor
    if len(batch) == 2 and batch[0] * batch[1] == len(tensor):
        return tensor.reshape(*batch, *tensor.shape[1:])
    if not batch and heads and len(tensor) % heads == 0:
        return tensor.reshape(-1, heads, *tensor.shape[1:])
    return tensor


def _fits(tensor: Tensor, batch: Sequence[int]) -> bool:
    """Whether the samples and heads of an operand broadcast to those of the logits."""
    own = tensor.shape[:-2]
    pairs = zip(reversed(own), reversed(batch), strict=False)
    return len(own) <= len(batch) and all(size in (1, wanted) for size, wanted in pairs)


def _refuse_compiled(model: nn.Module, call: Call) -> None:
    for path, module in model.named_modules():
        if is_compiled(module):
            raise InputError(
                f"the call {str(call)!r} cannot be seen, since {path or 'the model'!r} is compiled;"
                " put a qprobe.sites.Tap at the tensor, or watch the model before it is compiled."
            )
