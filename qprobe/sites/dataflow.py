"""What each tensor of a pass was computed from: the graph in which fusions are recognized.

A *branch* is a tensor that depends on the batch and carries a gradient. Two branches are different
when different learned operations made them, so every tensor carries *labels*: which learned
operations were the last on the ways that lead to it. A sum of an activation and a bias, a position
or a scalar has one branch; ``x · rsqrt(mean(x²))``, rotary embeddings and a concatenation of slices
of one tensor have several operands with the same labels, and are no fusions either.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from qprobe.sites.calls import WHOLE, Call
from qprobe.sites.scores import Probabilities, Scaled, Scores

#: Operations that make a tensor from the shape of another, not from its values.
_SHAPED_AFTER = ("new", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like")
#: Operations whose results are parts of their input.
_PARTING = frozenset({"chunk", "split", "tensor_split", "unbind", "split_with_sizes"})


class Label(NamedTuple):
    """The last learned operation on a way to a tensor, and which part of its result this is."""

    producer: str
    order: int
    part: tuple[object, ...] = ()


@dataclass(slots=True, eq=False)
class Node:
    """An activation that carries a gradient: the result of one call."""

    order: int
    call: Call
    inputs: tuple[tuple["Node", int], ...]
    labels: frozenset[Label]

    @property
    def producers(self) -> tuple[str, ...]:
        """What made this, in the order of the pass."""
        ordered = sorted(self.labels, key=lambda label: label.order)
        return tuple(dict.fromkeys(label.producer for label in ordered))


@dataclass(slots=True, frozen=True)
class Origin:
    """What is known of one tensor."""

    node: Node | None = None
    from_batch: bool = False
    learned: bool = False  # made of parameters alone
    heads: int | None = None  # how many heads each sample holds, where they were folded into it
    scaled: Scaled | None = None  # the multiplication by a number that has made this
    scores: Scores | None = None
    probabilities: Probabilities | None = None


_CONSTANT = Origin()


class Dataflow:
    """Remembers origins of tensors, as long as the tensors live, and the graph of activations."""

    def __init__(self, model: nn.Module) -> None:
        self._origins: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._order = 0
        for parameter in model.parameters():
            self._origins[parameter] = Origin(learned=True)

    def origin(self, tensor: Tensor) -> Origin:
        """What is known of ``tensor``; a constant where nothing is."""
        found: Origin = self._origins[tensor] if tensor in self._origins else _CONSTANT  # noqa: SIM401  (its get is untyped)
        return found

    def set_origin(self, tensor: Tensor, origin: Origin) -> None:
        """Remember, replacing what was known before."""
        self._origins[tensor] = origin

    def batch(self, tensors: Iterable[Tensor]) -> None:
        """These are the sample batch; what carries a gradient already is an activation."""
        for number, tensor in enumerate(tensors):
            if tensor not in self._origins:
                call = Call("", "input", number)
                node = self.node(call, (), "input") if tensor.requires_grad else None
                self._origins[tensor] = Origin(node=node, from_batch=True)

    def node(
        self, call: Call, inputs: Iterable[tuple[Tensor, int]], label: str | None = None
    ) -> Node:
        """A new activation, made by ``call`` from ``inputs`` at their positions.

        ``label`` names it as the result of a learned operation; without one it keeps the labels of
        what it was made from.
        """
        nodes = [
            (node, at) for tensor, at in inputs if (node := self.origin(tensor).node) is not None
        ]
        self._order += 1
        fresh = frozenset({Label(label or call.path, self._order)})
        inherited = frozenset(one for node, _ in nodes for one in node.labels)
        labels = fresh if label is not None or not inherited else inherited
        return Node(self._order, call, tuple(nodes), labels)

    def result(self, call: Call, tensors: Mapping[int, Tensor], name: str | None) -> Origin:
        """The origin of what ``call`` makes of ``tensors``, given by position.

        ``name`` is what a learned operation is called, None where this is not one.
        """
        origins = [self.origin(tensor) for tensor in tensors.values()]
        from_batch = any(origin.from_batch for origin in origins)
        if call.operation.startswith(_SHAPED_AFTER) or not from_batch:
            return Origin(learned=not from_batch and any(one.learned for one in origins))
        node = self.node(call, ((tensor, at) for at, tensor in tensors.items()), name)
        return Origin(node=node, from_batch=True)

    def parted(self, origin: Origin, operation: str, which: object) -> Origin:
        """The same origin for one part of a result, so that a gate can tell the parts apart."""
        if origin.node is None or not (operation in _PARTING or operation == "getitem"):
            return origin
        node = origin.node
        labels = frozenset(label._replace(part=(*label.part, which)) for label in node.labels)
        return Origin(
            node=Node(node.order, node.call, node.inputs, labels), from_batch=origin.from_batch
        )


def differ(one: Node, other: Node, *, parts: bool) -> bool:
    """Whether two branches came from different learned operations.

    With ``parts``, disjoint parts of one result differ too: both halves of a gated linear unit.
    """
    if {label[:2] for label in one.labels} != {label[:2] for label in other.labels}:
        return True
    return parts and one.labels.isdisjoint(other.labels)


def ancestors(node: Node) -> dict[int, Node]:
    """``node`` and all that it was made from, by order."""
    found: dict[int, Node] = {}
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one.order not in found:
            found[one.order] = one
            waiting += [before for before, _ in one.inputs]
    return found


def shared_by(nodes: Iterable[Node]) -> Node | None:
    """The latest activation that all of ``nodes`` were made from; one of them, possibly."""
    first, *rest = [ancestors(node) for node in nodes]
    common = set(first).intersection(*rest)
    return first[max(common)] if common else None


def exits(branch: Node, shared: Node) -> list[tuple[Call, int]]:
    """The calls, with positions, that take ``shared`` on the way to ``branch``.

    One position stands for all where the call may ask whether its arguments are one tensor.
    """
    found = sorted(
        (node.call, at)
        for node in ancestors(branch).values()
        if node.order != shared.order
        for before, at in node.inputs
        if before.order == shared.order
    )
    first = dict(reversed(found))
    return [(call, at) for call, at in found if call.operation not in WHOLE or first[call] == at]


def first_tensor(obj: object) -> Tensor | None:
    """The first of :func:`tensors_in`; a plain tensor is found without a search."""
    return obj if isinstance(obj, Tensor) else next(tensors_in(obj), None)


def first_argument(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The first tensor that a call takes."""
    first = args[0] if args else None
    return first if isinstance(first, Tensor) else first_tensor((args, kwargs))


def tensors_in(obj: object) -> Iterator[Tensor]:
    """The tensors in nested containers: sequences, mappings, dataclasses."""
    if isinstance(obj, Tensor):
        yield obj
    elif isinstance(obj, Mapping):
        yield from (tensor for value in obj.values() for tensor in tensors_in(value))
    elif isinstance(obj, list | tuple | set | frozenset):
        yield from (tensor for value in obj for tensor in tensors_in(value))
    elif is_dataclass(obj) and not isinstance(obj, type):
        yield from (t for field in fields(obj) for t in tensors_in(getattr(obj, field.name)))
