"""Scores and probabilities of an attention that a module writes out, followed through a pass."""

from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from qprobe.records.schema import Role
from qprobe.sites.calls import MULTIHEAD, Call
from qprobe.sites.contraction import Contraction, Layout
from qprobe.sites.site import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """The call that has multiplied the tensor at ``position`` of its arguments with a number."""

    call: Call
    position: int
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a product of queries and keys has become so far."""

    product: Call
    contraction: Contraction | None
    #: What numbers it was multiplied with; None where that cannot be told.
    scale: float | None
    #: How many heads its samples hold, where these were folded into them; None where unknown.
    heads: int | None = None
    #: Of operands at some positions: by which number they were multiplied directly before.
    scaled: tuple[tuple[int, Scaled], ...] = ()
    #: Whether the last two axes have been exchanged.
    flipped: bool = False
    #: How long the last two axes are; None where that is unknown.
    sizes: tuple[int, ...] | None = None
    #: Whether these are several axes for the time being.
    spread: bool = False

    def over(self, axis: int) -> Layout | None:
        """How queries and keys lie if the softmax is over ``axis``, from the end."""
        if self.contraction is None:
            return None
        swapped = {-1: -2, -2: -1}.get(axis, axis) if self.flipped else axis
        layout = self.contraction.layout(swapped)
        return layout.flipped() if layout is not None and self.flipped else layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Probabilities:
    """What a softmax has made of scores."""

    scores: Scores
    softmax: Call
    layout: Layout | None
    #: Where the keys are, from the end.
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """An attention that a module computes by itself.

    ``product`` is the fused call, or the product of queries and keys; then ``softmax`` and ``mix``,
    the product with the values, are calls of their own. ``layout`` says where the product has
    queries and keys and ``value`` where the mix has the values, as position and order of axes; None
    where that cannot be told. ``scale`` is what numbers this product is multiplied with on its way
    to the softmax; None where something else happens to it than that something is added or masked.
    ``heads`` is how many heads each sample of the product holds, where these are folded into one
    axis, and ``scaled`` by which number queries or keys were multiplied right before the product.
    """

    product: Call
    softmax: Call | None = None
    mix: Call | None = None
    value: tuple[int, tuple[int, ...]] | None = None
    layout: Layout | None = None
    scale: float | None = None
    heads: int | None = None
    scaled: tuple[tuple[int, Scaled], ...] = ()

    @property
    def sites(self) -> list[Site]:
        """Queries, keys and values as far as they can be told, logits and probabilities."""
        path = str(self.product)
        known = self.softmax is None or (self.layout is not None and self.value is not None)
        inputs = range(3) if known else ()
        roles = () if self.product.operation == MULTIHEAD else (Role.ATTN_LOGITS, Role.ATTN_PROBS)
        return [
            *(Site(path, Role.INPUT, "attention", index) for index in inputs),
            *(Site(path, role, "attention") for role in roles),
        ]


def normalised(scores: Scores, softmax: Call, axis: int | None) -> Probabilities | None:
    """What a softmax over ``axis`` makes; None where that is no axis of keys."""
    if axis is None or scores.spread:
        return None
    layout = scores.over(axis)
    if layout is None and (axis != -1 or scores.flipped):
        return None
    return Probabilities(scores=scores, softmax=softmax, layout=layout, axis=axis)


def mixed(
    call: Call, contraction: Contraction | None, at: int, known: Probabilities
) -> Attention | None:
    """The attention that a product of probabilities, at position ``at``, ends; None for another."""
    value = None
    if contraction is not None and at in contraction.positions:
        value = contraction.values(at, known.axis)
    scores = known.scores
    return Attention(
        product=scores.product,
        softmax=known.softmax,
        mix=call,
        value=value,
        layout=known.layout,
        scale=None if known.layout is None else scores.scale,
        heads=scores.heads,
        scaled=scores.scaled,
    )


_Mark = TypeVar("_Mark", Scores, Probabilities)


def carried(mark: _Mark, before: Tensor, after: Tensor) -> _Mark | None:
    """The same of what a call has made; None where it cannot be told where the keys are.

    The last two axes stay, or are exchanged. Scores may also be given other axes and be given back
    these, as where positions of rows and of columns are added one by one.
    """
    if isinstance(mark, Scores):
        reshaped = _reshaped(mark, before, after)
        if reshaped is not None:
            return reshaped
    turned = _turned(before, after)
    if turned is None or not turned:
        return None if turned is None else mark
    if isinstance(mark, Scores):
        sizes = mark.sizes and mark.sizes[::-1]
        return None if mark.spread else replace(mark, flipped=not mark.flipped, sizes=sizes)
    axis = {-1: -2, -2: -1}.get(mark.axis)
    return None if axis is None else replace(mark, axis=axis)


def _reshaped(mark: Scores, before: Tensor, after: Tensor) -> Scores | None:
    """Scores with other axes over the same elements in their order; None where not that."""
    whole = before.is_contiguous() and after.is_contiguous() and _shares_memory(before, after)
    if mark.sizes is None or not whole or before.numel() != after.numel():
        return None
    return replace(mark, spread=tuple(after.shape[-2:]) != mark.sizes)


def _turned(before: Tensor, after: Tensor) -> bool | None:
    """Whether the last two axes were exchanged; None where there are others.

    Only a view exchanges axes, and a view shows it by its strides, also where both are as long.
    """
    if before.dim() < 2 or after.dim() < 2:
        return None
    one, other = tuple(before.shape[-2:]), tuple(after.shape[-2:])
    if _shares_memory(before, after) and before.stride()[-2:] != after.stride()[-2:]:
        exchanged = (one, before.stride()[-2:]) == (other[::-1], after.stride()[-2:][::-1])
        if exchanged:
            return True
        long = [size for size in one if size > 1]
        return False if one == other and len(long) < 2 else None
    return False if one == other else None


def _shares_memory(one: Tensor, other: Tensor) -> bool:
    first, second = (t if t._base is None else t._base for t in (one, other))  # noqa: SLF001
    return first is second


def heads_folded(before: Tensor, after: Tensor) -> int | None:
    """How many heads a reshape has folded into an axis of samples, the heads being the inner ones.

    ``[..., samples, heads, tokens, d]`` to ``[..., samples * heads, tokens, d]``, or, tokens first,
    ``[tokens, samples, heads * d]`` to ``[tokens, samples * heads, d]``.

    >>> from torch import ones
    >>> heads_folded(ones(2, 3, 5, 4), ones(6, 5, 4)), heads_folded(ones(5, 2, 12), ones(5, 6, 4))
    (3, 3)
    >>> heads_folded(ones(2, 3, 4), ones(2, 4, 3)) is None
    True
    """
    one, other = tuple(before.shape), tuple(after.shape)
    if len(one) >= 4 and other == (*one[:-4], one[-4] * one[-3], *one[-2:]):
        return one[-3]
    if len(one) == len(other) == 3 and one[0] == other[0] and other[2] and one[2] % other[2] == 0:
        heads = one[2] // other[2]
        return heads if heads > 1 and other[1] == one[1] * heads else None
    return None
