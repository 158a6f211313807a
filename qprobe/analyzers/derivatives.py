"""Is the gradient that leaves a module the derivative of what the module computes?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from qprobe.analyzers.base import Subject
from qprobe.analyzers.measured import Measured
from qprobe.analyzers.observation import under_recipe, undisturbed
from qprobe.errors import InputError
from qprobe.quant.convert import restored
from qprobe.records.schema import Array, Cause, Finding, Record, Role, Severity, severity
from qprobe.sites.calls import is_compiled

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

NAME = "derivatives"
CONTROL = "the same module in high precision, its input moved along the gradient and against it"
REFERENCE = "docs/concepts/diagnosis.md, derivatives"
UNIT = "times between gradient and derivative"
#: From this factor on, both ways, a gradient is told. Healthy modules are within a few per cent:
#: what remains is the bend of the function, which the smaller of two steps takes out.
TOLD = 2.0
#: Steps along the gradient, as shares of the size of the input.
_STEPS = (1e-3, 1.25e-4)
#: What float32 blurs, as a share of the product of the sizes of output and gradient; a change of
#: the output below that says nothing.
_BLUR = 1e-5
#: How exactly a second call has to give what the first one gave.
_REPEATS = 1e-4
#: Arguments that a second call finds as the first one did: no caches, no iterators.
_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.Size)


@dataclass(slots=True, eq=False)
class _Call:
    """The first call of one module: what went in and came out, and the gradients of both."""

    path: str
    module: nn.Module
    #: Arguments, flattened; tensors are copies.
    leaves: list[Any]
    structure: Any
    #: Whether a second call finds the same arguments.
    plain: bool
    outputs: list[Tensor] = field(default_factory=list)
    into: dict[int, Tensor] = field(default_factory=dict)
    out_of: dict[int, dict[int, Tensor]] = field(default_factory=dict)
    #: Outputs under the name that other hooks and modules know them by.
    aliases: dict[int, Tensor] = field(default_factory=dict)

    @property
    def held(self) -> list[tuple[int, Tensor]]:
        """The outputs that a gradient came back to, by number, with it."""
        return [(at, found[0]) for at, found in self.out_of.items() if found]

    def again(self, position: int | None = None, moved: Tensor | None = None) -> list[Tensor]:
        """The outputs of one more call, with one argument moved."""
        leaves = [one.clone() if isinstance(one, Tensor) else one for one in self.leaves]
        if position is not None and moved is not None:
            leaves[position] = leaves[position] + moved
        args, kwargs = tree_unflatten(leaves, self.structure)
        return _tensors(self.module(*args, **kwargs))


def _tensors(output: object) -> list[Tensor]:
    return [one for one in tree_leaves(output) if isinstance(one, Tensor)]


class _Watch:
    """Puts aliases where tensors enter and leave modules, and keeps what passes through them."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: dict[str, _Call] = {}
        self._under_way: list[_Call | None] = []
        self._handles: list[RemovableHandle] = []
        for path, module in model.named_modules():
            if path:
                # First and last of all hooks, so that whatever hooks do is part of the module.
                enter = module.register_forward_pre_hook(
                    self._entering(path), prepend=True, with_kwargs=True
                )
                made = module.register_forward_hook(self._made, prepend=True)
                self._handles += [enter, made, module.register_forward_hook(self._left)]

    def close(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _entering(self, path: str) -> Any:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
            leaves, structure = tree_flatten((args, kwargs))
            if path in self.calls:
                self._under_way.append(None)
                return None
            plain = all(isinstance(one, (Tensor, *_PLAIN)) for one in leaves)
            kept = [one.detach().clone() if isinstance(one, Tensor) else one for one in leaves]
            call = _Call(path, module, kept, structure, plain)
            self._under_way.append(call)
            aliases = [_alias(one, call.into, at) for at, one in enumerate(leaves)]
            return tree_unflatten(aliases, structure)

        return enter

    def _made(self, _: nn.Module, __: Any, output: Any) -> Any:
        """Before other hooks: they may keep the output for somebody else (transformers do)."""
        call = self._under_way[-1]
        return None if call is None else self._aliased(call, output)

    def _left(self, _: nn.Module, __: Any, output: Any) -> Any:
        """After other hooks: what they have put in place of an output is the output."""
        call = self._under_way.pop()
        if call is None:
            return None
        self.calls[call.path] = call
        return self._aliased(call, output)

    def _aliased(self, call: _Call, output: Any) -> Any:
        leaves, structure = tree_flatten(output)
        tensors = [at for at, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        for number, at in enumerate(tensors):
            if id(leaves[at]) not in call.aliases:
                # A later name of an output replaces an earlier one, and so does its gradient.
                gradients = call.out_of[number] = dict[int, Tensor]()
                leaves[at] = _alias(leaves[at], gradients, 0)
                call.aliases[id(leaves[at])] = leaves[at]
        call.outputs = [leaves[at].detach().clone() for at in tensors]
        return tree_unflatten(leaves, structure)


def _alias(leaf: Any, gradients: dict[int, Tensor], at: int) -> Any:
    """The same tensor under another name, whose gradient is kept."""
    if not (isinstance(leaf, Tensor) and leaf.requires_grad):
        return leaf
    alias = leaf.view_as(leaf)

    def keep(gradient: Tensor) -> None:
        gradients[at] = gradient.detach().clone()

    alias.register_hook(keep)  # type: ignore[no-untyped-call]
    return alias


class Derivatives:
    """Moves the input of every module along its gradient and compares what that changes.

    A gradient says by how much the loss changes when an input moves. Whether it does can be tried:
    for an input x with gradient g, and v = g/‖g‖, the output y with gradient h has to fulfil
    ‖g‖ = ⟨h, y(x + εv) − y(x − εv)⟩ / 2ε. A tensor that was detached on the way, or a gradient
    that somebody scaled, breaks that, in whatever precision the model is, so all recipes are
    lifted: their straight-through gradients are no derivatives and are meant so.
    """

    name = NAME
    reads = frozenset({NAME})

    def measure(self, subject: Subject) -> Iterator[Record | Array]:
        """Look at the first batch; the model is left as it was."""
        model = subject.model
        if any(is_compiled(module) for module in model.modules()):
            raise InputError("derivatives are not tried in a compiled model; give it uncompiled.")
        with undisturbed(model), restored(model, under_recipe(model)):
            for call in _watched(subject):
                tried = call.plain and _repeats(call)
                yield _record(call, "tried", float(tried))
                for position, gradient in call.into.items() if tried else ():
                    yield from _compared(call, position, gradient)

    def analyze(self, records: Sequence[Record]) -> list[Finding]:
        """One finding a module that breaks the law while none of its parts does."""
        measured = Measured(records, NAME)
        broken: dict[str, tuple[float, float, float]] = {}
        for place in measured.places():
            values = measured.at(place)
            for gradient, derivative in _pairs(values):
                factor = _factor(gradient, derivative)
                if factor >= TOLD and factor >= broken.get(place.site, (0.0,))[0]:
                    broken[place.site] = (factor, gradient, derivative)
        return [
            _finding(site, *found, n=int(measured.value(site, Role.INPUT, "n") or 1))
            for site, found in broken.items()
            if not any(other.startswith(f"{site}.") for other in broken)
        ]


def _watched(subject: Subject) -> list[_Call]:
    """Every module's first call in a pass forward and backward over the first batch."""
    batch = next(iter(subject.batches()), None)
    if batch is None:
        raise InputError(f"{subject.name} has no batch to look at; give batches() some.")
    watch = _Watch(subject.model)
    try:
        losses = subject.loss(subject.forward(subject.model, batch), batch)
    finally:
        watch.close()
    if not losses.requires_grad:
        raise InputError("the loss does not depend on anything that is learned.")
    losses.sum().backward()  # type: ignore[no-untyped-call]
    for call in watch.calls.values():
        call.aliases.clear()  # they hold the graph
    return [call for call in watch.calls.values() if call.held]


@torch.no_grad()
def _compared(call: _Call, position: int, gradient: Tensor) -> Iterator[Record]:
    """Gradient and derivative of one argument; nothing where arithmetic or state hide them."""
    x, size = call.leaves[position], float(gradient.double().norm())
    if not size > 0.0 or not bool(x.any()):
        return
    direction, held = gradient / size, call.held
    blur = sum(float(h.double().norm() * call.outputs[at].double().norm()) for at, h in held)
    found: list[float] = []
    for step in _STEPS:
        length = step * float(x.double().norm())
        ahead, behind = (call.again(position, direction * e) for e in (length, -length))
        change = sum(float(((ahead[k] - behind[k]).double() * h).sum()) for k, h in held) / 2
        if max(abs(change), size * length) < _BLUR * blur:
            return
        found.append(change / length)
        if _factor(size, found[-1]) < TOLD:
            break
    derivative = min(found, key=lambda one: _factor(size, one))
    for key, value in (("gradient", size), ("derivative", derivative)):
        yield _record(call, f"argument{position}.{key}", value)
    yield _record(call, "n", float(x.shape[0] if x.dim() else 1))


def _record(call: _Call, key: str, value: float) -> Record:
    return Record("", 0, call.path, Role.INPUT, NAME, key, value)


@torch.no_grad()
def _repeats(call: _Call) -> bool:
    """Whether the module does the same again: not if it keeps state or draws numbers."""
    again = call.again()
    return len(again) == len(call.outputs) and all(
        one.shape == other.shape
        and bool((one - other).norm() <= _REPEATS * other.norm().clamp(min=1e-30))
        for one, other in zip(again, call.outputs, strict=True)
        if other.is_floating_point()
    )


def _pairs(values: Mapping[str, float]) -> Iterator[tuple[float, float]]:
    for key, gradient in values.items():
        argument, _, what = key.partition(".")
        derivative = values.get(f"{argument}.derivative")
        if what == "gradient" and derivative is not None:
            yield gradient, derivative


def _factor(gradient: float, derivative: float) -> float:
    """By how much one is larger than the other, from 1; without limit where signs differ.

    >>> _factor(0.5, 2.0), _factor(2.0, 0.5), _factor(1.0, -1.0)
    (4.0, 4.0, inf)
    """
    if gradient * derivative <= 0.0:
        return inf
    return max(gradient / derivative, derivative / gradient)


def _finding(site: str, factor: float, gradient: float, derivative: float, n: int) -> Finding:
    less = abs(gradient) < abs(derivative)
    how = f"{factor:.3g} times too {'small' if less else 'large'}"
    return Finding(
        analyzer=NAME,
        claim=f"the gradient that leaves {site} is {how} for what {site} computes",
        cause=Cause.BRANCH_DEAD if less else Cause.NOT_EXPLAINED,
        severity=severity(None, unscored=Severity.WARN),
        sites=(site,),
        roles=(Role.GRAD_OUTPUT, Role.BRANCH),  # of training: no evaluation sees it
        effect=factor,
        unit=UNIT,
        low=factor,
        high=factor,
        n=max(1, n),
        control=CONTROL,
        remedy="look for a detached tensor, a scaled gradient or a custom backward in it; more "
        "bits do not help",
        reference=REFERENCE,
    )
