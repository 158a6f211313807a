"""Products of two tensors by the letters of their axes, and which axes make an attention of one."""

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a product has queries and keys, and how these and its result lie.

    ``query`` and ``key`` are positions among the arguments of the call. The orders of axes make
    ``[..., queries, head_dim]``, ``[..., keys, head_dim]`` and ``[..., queries, keys]`` of them.
    """

    query: int
    key: int
    query_axes: tuple[int, ...]
    key_axes: tuple[int, ...]
    logit_axes: tuple[int, ...]

    def flipped(self) -> "Layout":
        """The same, for a result whose last two axes have been exchanged since."""
        last = len(self.logit_axes) - 1
        swapped = {last: last - 1, last - 1: last}
        axes = tuple(swapped.get(axis, axis) for axis in self.logit_axes)
        return Layout(
            query=self.query,
            key=self.key,
            query_axes=self.query_axes,
            key_axes=self.key_axes,
            logit_axes=axes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Contraction:
    """``torch.einsum`` of two operands, whichever call computes it.

    ``positions`` are those of the operands among the arguments of the call, ``terms`` their axes
    and ``made`` those of the result, a letter each. ``alpha`` multiplies it.

    >>> Contraction(positions=(1, 2), terms=("bnhd", "bmhd"), made="bhnm").layout(-1)
    Layout(query=1, key=2, query_axes=(0, 2, 1, 3), key_axes=(0, 2, 1, 3), logit_axes=(0, 1, 2, 3))
    """

    positions: tuple[int, int]
    terms: tuple[str, str]
    made: str
    alpha: float = 1.0

    def layout(self, axis: int) -> Layout | None:
        """How queries and keys lie if the softmax is over ``axis`` of the result, from the end.

        The operand that has this axis alone has the keys. None where it is not one axis of queries,
        one of keys and one of channels.
        """
        key = self.made[axis]
        holders = [at for at in (0, 1) if key in self.terms[at] and key not in self.terms[1 - at]]
        if len(holders) != 1:
            return None
        q, k = self.terms[1 - holders[0]], self.terms[holders[0]]
        channels = [one for one in q if one in k and one not in self.made]
        queries = [one for one in self.made if one in q and one not in k]
        if len(channels) != 1 or not queries:
            return None
        query = queries[-1]  # keys that all samples share have none of their axes
        batch = [one for one in self.made if one not in (query, key)]
        shared = [one for one in batch if one in k]
        apart = set(q) - {*batch, query, channels[0]} or set(k) - {*shared, key, channels[0]}
        if (
            apart
            or any(one not in q for one in batch)
            or batch[len(batch) - len(shared) :] != shared
        ):
            return None
        return Layout(
            query=self.positions[1 - holders[0]],
            key=self.positions[holders[0]],
            query_axes=_order(q, [*batch, query, channels[0]]),
            key_axes=_order(k, [*shared, key, channels[0]]),
            logit_axes=_order(self.made, [*batch, query, key]),
        )

    def values(self, at: int, axis: int) -> tuple[int, tuple[int, ...]] | None:
        """Where the values are, and the order ``[..., keys, head_dim]`` of their axes.

        The operand at position ``at`` holds probabilities, whose keys are its ``axis``.

        >>> Contraction(positions=(0, 1), terms=("bqk", "bkd"), made="bqd").values(0, -1)
        (1, (0, 1, 2))
        """
        side = self.positions.index(at)
        p, v = self.terms[side], self.terms[1 - side]
        key = p[axis]
        channels = [one for one in v if one in self.made and one not in p]
        if key not in v or key in self.made or len(channels) != 1:
            return None
        batch = [one for one in p if one in v and one != key]
        if set(v) != {*batch, key, channels[0]}:
            return None
        return self.positions[1 - side], _order(v, [*batch, key, channels[0]])


def contraction_of(
    function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: Mapping[int, Tensor]
) -> Contraction | None:
    """A call of a product, with the tensors among its arguments by position; None where unknown.

    >>> import torch
    >>> q, k = torch.ones(2, 5, 4), torch.ones(2, 4, 7)
    >>> contraction_of(torch.bmm, (q, k), {}, {0: q, 1: k})
    Contraction(positions=(0, 1), terms=('aXY', 'aYZ'), made='aXZ', alpha=1.0)
    """
    name = getattr(function, "__name__", "")
    if name == "einsum":
        return _of_equation(args, inputs)
    operands = list(inputs.items())
    if name.startswith("baddbmm"):
        alpha = kwargs.get("alpha", 1)
        return _of_matmul(operands[1:3], float(alpha)) if isinstance(alpha, int | float) else None
    return _of_matmul(operands[::-1] if name == "__rmatmul__" else operands, 1.0)


def softmax_axis(args: tuple[Any, ...], kwargs: Mapping[str, Any], dims: int) -> int | None:
    """The axis of a softmax, counted from the end; None where it is left to PyTorch.

    >>> softmax_axis(("logits", 1), {}, 3), softmax_axis(("logits",), {"dim": -1}, 3)
    (-2, -1)
    """
    axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if not isinstance(axis, int):
        return None
    return axis if axis < 0 else axis - dims


def _of_matmul(operands: list[tuple[int, Tensor]], alpha: float) -> Contraction | None:
    if len(operands) != 2 or min(tensor.dim() for _, tensor in operands) < 2:
        return None
    (at, one), (behind, other) = operands
    batch = ascii_lowercase[: max(one.dim(), other.dim()) - 2]
    first, second = (batch[len(batch) - t.dim() + 2 :] for t in (one, other))
    terms = f"{first}XY", f"{second}YZ"
    return Contraction(positions=(at, behind), terms=terms, made=f"{batch}XZ", alpha=alpha)


def _of_equation(args: tuple[Any, ...], inputs: Mapping[int, Tensor]) -> Contraction | None:
    """From ``"...id,...jd->...ij"``; an equation that does not say what it makes is not guessed."""
    equation = args[0] if args else None
    if not isinstance(equation, str) or "->" not in equation or len(inputs) != 2:
        return None
    taken, _, made = equation.replace(" ", "").partition("->")
    terms = taken.split(",")
    if len(terms) != 2:
        return None
    spare = "".join(one for one in ascii_uppercase if one not in equation)
    ranks = [
        t.dim() - len(term.replace("...", ""))
        for t, term in zip(inputs.values(), terms, strict=True)
    ]
    dotted = {rank for rank, term in zip(ranks, terms, strict=True) if "..." in term}
    if len(dotted) > 1:
        return None
    dots = spare[: max(dotted, default=0)]
    first, second, result = (one.replace("...", dots) for one in (*terms, made))
    if any(len(set(one)) != len(one) for one in (first, second, result)):  # a diagonal
        return None
    return Contraction(positions=tuple(inputs), terms=(first, second), made=result)  # type: ignore[arg-type]


def _order(axes: str, wanted: list[str]) -> tuple[int, ...]:
    return tuple(axes.index(one) for one in wanted)
