"""What no module owns: attention and fusions, found by one forward pass that leaves no trace."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from qprobe.errors import InputError
from qprobe.records.schema import Role
from qprobe.sites.calls import MULTIHEAD, Call, Calls, is_compiled, operation_of
from qprobe.sites.contraction import Contraction
from qprobe.sites.dataflow import (
    Dataflow,
    Node,
    differ,
    exits,
    shared_by,
    tensors_in,
)
from qprobe.sites.discover import by_path, owners
from qprobe.sites.marks import How, Operand, how_of, marked
from qprobe.sites.passes import unseen
from qprobe.sites.repeats import Repeats
from qprobe.sites.scores import Attention, mixed
from qprobe.sites.site import ROOT, Site

#: What joins branches, by what it is called here.
_JOINS = {"cat": "cat", "add": "add", "mul": "gate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One operand of a fusion.

    ``producers`` are the modules (and fusions) whose learned operations made it, ``position`` is
    its place among the arguments of the call. ``exits`` are the calls, with the position of the
    argument, that take the tensor which all branches share into this branch; the fusion itself for
    a branch without any operation in between. Only additions have them.
    """

    producers: tuple[str, ...]
    position: int
    exits: tuple[tuple[Call, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """A call that joins two or more computed activations: ``cat``, ``add`` or ``gate``.

    ``shared`` names the producers of the latest activation that all branches were made from, for an
    addition. An addition passes one gradient to all its branches, which differ only where they
    leave that activation; branches that share none carry nothing to compare, and have no sites.
    """

    call: Call
    kind: str
    branches: tuple[Branch, ...]
    shared: tuple[str, ...]

    @property
    def sites(self) -> list[Site]:
        """One site a branch: the gradient at the fusion, or where an addition's branch begins."""
        count = 0 if self.kind == "add" and not self.shared else len(self.branches)
        return [Site(str(self.call), Role.BRANCH, self.kind, index) for index in range(count)]

    def __str__(self) -> str:
        made = " | ".join(", ".join(branch.producers) for branch in self.branches)
        return f"{self.kind} {self.call}: {made}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What one forward pass showed; ``calls`` counts the calls of every module.

    Of fusions that a loop repeats, as a scan does for every token, the first 16 are there, and of
    branches that it makes for one of them; ``repeated`` counts the others, by module and operation.
    """

    attentions: tuple[Attention, ...]
    fusions: tuple[Fusion, ...]
    calls: Mapping[str, int]
    sites: tuple[Site, ...]
    repeated: Mapping[str, int]


def trace(model: nn.Module, *args: Any, **kwargs: Any) -> Trace:
    """Run ``model(*args, **kwargs)`` once and say which attentions and fusions it computes.

    Every call is named by the module that makes it and its number among the calls of that operation
    in that module: ``blocks.0/add.1``. What is numbered is every call, fusion or not, in the whole
    pass, so numbers agree between passes that run the same code.

    The model is left as it was found, also after an exception: buffers are replaced by copies
    during the pass (so that running statistics do not move), PyTorch's generators are set back
    (those of recipes draw in backward only), no hook stays, and modes, parameters and gradients are
    not touched. The pass records gradients, whatever the caller's mode, and forgets them. State
    that a model keeps in plain attributes is its own.

    It sees what the pass computes: trace in the mode, training or evaluation, that you will watch.
    Inside reentrant activation checkpointing, where PyTorch records no gradients, branches are
    not seen.

    >>> class Residual(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.stem, self.inner = nn.Linear(4, 4), nn.Linear(4, 4)
    ...     def forward(self, x):
    ...         x = self.stem(x)
    ...         return x + self.inner(x).relu() + 1
    >>> for fusion in trace(Residual(), torch.ones(2, 4)).fusions:
    ...     print(fusion)
    add ./add.0: stem | inner
    """
    _refuse_uninitialized(model)
    recorder = _Recorder(model)
    with _as_found(model):
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        args, kwargs = tree_map(_usable, (args, kwargs))
        with unseen(), recorder.calls, recorder:
            torch.func.functional_call(model, buffers, args, kwargs)
    return recorder.trace(model)


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls = Calls(model, self)
        self._flow = Dataflow(model)
        self._frames: list[tuple[Call, dict[int, Tensor]]] = []
        self._attentions: list[Attention] = []
        self._fusions: list[Fusion] = []
        self._repeats = Repeats()

    def trace(self, model: nn.Module) -> Trace:
        modules = by_path(owners(model))

        def owned(attention: Attention) -> bool:
            owner = modules.get(attention.product.path)
            return owner is not None and Role.ATTN_LOGITS in owner.roles

        foreign = [one for one in self._attentions if not owned(one)]
        found: Sequence[Attention | Fusion] = [*foreign, *self._fusions]
        return Trace(
            attentions=tuple(self._attentions),
            fusions=tuple(self._fusions),
            calls=dict(self.calls.totals),
            sites=tuple(site for one in found for site in one.sites),
            repeated=dict(self._repeats.left_out),
        )

    def entered(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._frames:
            self._flow.batch(tensors_in((args, kwargs)))
        self._frames.append((call, _tensors(args, kwargs)))

    def left(self, call: Call, output: object) -> None:
        for tensor in tensors_in(output):
            self._resolve(tensor)
        while self._frames and self._frames.pop()[0] != call:
            pass

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = _tensors(args, kwargs)
        for tensor in inputs.values():
            self._resolve(tensor)
        versions = {at: tensor._version for at, tensor in inputs.items()}  # noqa: SLF001
        output = func(*args, **kwargs)
        call = self.calls.count(operation_of(func))
        if call.operation == "setitem":
            self._written(call, inputs)
            return output
        unchanged = {
            id(tensor)
            for at, tensor in inputs.items()
            if tensor._version == versions[at]  # noqa: SLF001
        }
        made = [(k, t) for k, t in enumerate(tree_leaves(output)) if isinstance(t, Tensor)]
        if made := [(k, tensor) for k, tensor in made if id(tensor) not in unchanged]:
            self._made(call, inputs, made, how_of(func, call, (args, kwargs), inputs))
        return output

    def _made(
        self, call: Call, inputs: dict[int, Tensor], made: list[tuple[int, Tensor]], how: How
    ) -> None:
        attention = self._attention(call, inputs, how.contraction)
        joined = self._joined(call, inputs)
        if attention is not None:
            self._attentions.append(attention)
        producers = [node.producers for _, node in joined]
        if joined and not self._repeats.beyond(call, producers):
            told = self._repeats.among(call, producers)
            self._fusions.append(_fusion(call, [joined[at] for at in told]))
        name = self._name(call, inputs, attention, fuses=bool(joined))
        origin = self._flow.result(call, inputs, name)
        operands = [Operand(at, one, self._flow.origin(one)) for at, one in inputs.items()]
        for k, tensor in made:
            one = self._flow.parted(origin, call.operation, k if how.which is None else how.which)
            if not tensor.requires_grad:
                one = replace(one, node=None, learned=False)
            self._flow.set_origin(tensor, marked(one, (call, how), operands, tensor))

    def _name(
        self,
        call: Call,
        inputs: dict[int, Tensor],
        attention: Attention | None,
        *,
        fuses: bool,
    ) -> str | None:
        """What the result is labelled with, None where the call learned nothing."""
        if attention is not None and call.operation != MULTIHEAD:
            return str(attention.product)
        if fuses:
            return str(call)
        learned = any(self._flow.origin(tensor).learned for tensor in inputs.values())
        return call.path or ROOT if learned else None

    def _resolve(self, tensor: Tensor) -> None:
        """Ascribe a tensor whose maker is invisible, a custom autograd function, to its module.

        Such a function may compute with calls that are seen, and that record no gradients: what it
        returns carries one that came from nowhere.
        """
        origin = self._flow.origin(tensor)
        explained = origin.node is not None or origin.learned
        if explained or tensor.grad_fn is None or not self._frames:
            return
        call, inputs = self._frames[-1]
        self._flow.set_origin(tensor, self._flow.result(call, inputs, call.path or ROOT))

    def _written(self, call: Call, inputs: dict[int, Tensor]) -> None:
        """``target[index] = value``: the target becomes a function of both."""
        target = inputs[0]
        origin = self._flow.result(call, inputs, self._name(call, inputs, None, fuses=False))
        node = origin.node if target.requires_grad else None
        self._flow.set_origin(target, replace(origin, node=node))

    def _joined(self, call: Call, inputs: dict[int, Tensor]) -> list[tuple[int, Node]]:
        """What the call joins, by position; nothing where it is no fusion."""
        if call.operation not in _JOINS:
            return []
        operands = [
            (at, node)
            for at, tensor in inputs.items()
            if tensor.dim() > 0 and (node := self._flow.origin(tensor).node) is not None
        ]
        parts = _JOINS[call.operation] == "gate"
        if any(differ(operands[0][1], node, parts=parts) for _, node in operands[1:]):
            return operands
        return []

    def _attention(
        self, call: Call, inputs: dict[int, Tensor], contraction: Contraction | None
    ) -> Attention | None:
        if call.operation in ("sdpa", MULTIHEAD):
            return Attention(product=call)
        if call.operation != "matmul":
            return None
        for at, tensor in inputs.items():
            known = self._flow.origin(tensor).probabilities
            if known is not None:
                return mixed(call, contraction, at, known)
        return None


def _fusion(call: Call, operands: Sequence[tuple[int, Node]]) -> Fusion:
    kind = _JOINS[call.operation]
    # The share of an addition's branches shows only where they part.
    shared = shared_by(node for _, node in operands) if kind == "add" else None
    branches = tuple(
        Branch(producers=node.producers, position=at, exits=_exits(call, at, node, shared))
        for at, node in operands
    )
    made = () if shared is None else shared.producers
    return Fusion(call=call, kind=kind, branches=branches, shared=made)


def _exits(call: Call, at: int, branch: Node, shared: Node | None) -> tuple[tuple[Call, int], ...]:
    if shared is None:
        return ()
    return ((call, at),) if branch.order == shared.order else tuple(exits(branch, shared))


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[int, Tensor]:
    leaves = tree_leaves((args, kwargs))
    return {at: leaf for at, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}


def _usable(leaf: Any) -> Any:
    """A tensor made in inference mode cannot be recorded; its copy can."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf


def _refuse_uninitialized(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if torch.nn.parameter.is_lazy(parameter):
            raise InputError(
                f"the parameter {name!r} has no shape yet; run the model on one batch before."
            )


@contextmanager
def _as_found(model: nn.Module) -> Iterator[None]:
    """Record gradients inside; set generators back, and run eagerly what is compiled."""
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with ExitStack() as stack:
        if any(is_compiled(module) for module in model.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.random.fork_rng(sorted(devices)))
        yield
