"""What a call makes of what is known of its operands, on their way through an attention."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from qprobe.sites.calls import MULTIHEAD, Call, in_place
from qprobe.sites.contraction import Contraction, contraction_of, softmax_axis
from qprobe.sites.dataflow import Origin
from qprobe.sites.scaling import factor
from qprobe.sites.scores import Scaled, Scores, carried, heads_folded, normalised

#: Products of whole tensors; what they make are no scores any more.
_PRODUCTS = frozenset({"linear", MULTIHEAD, "sdpa"})


class How(NamedTuple):
    """What of a call's arguments is no tensor, and says what was made."""

    #: Which part of its input the result is.
    which: object
    #: What scores among its operands are multiplied with; None where that is unknown.
    factor: float | None
    #: Of a product, how its axes are named; None where that is unknown.
    contraction: Contraction | None
    #: Of a softmax, over which axis it is, from the end.
    axis: int | None
    #: Whether it writes into its first argument.
    overwrites: bool


class Operand(NamedTuple):
    """One tensor among the arguments of a call."""

    at: int
    tensor: Tensor
    origin: Origin


def how_of(function: Any, call: Call, given: tuple[Any, Any], inputs: Mapping[int, Tensor]) -> How:
    """What the arguments of a call say, beside its tensors by position."""
    args, kwargs = given
    dims = max((tensor.dim() for tensor in inputs.values()), default=0)
    product, softmax = call.operation == "matmul", call.operation == "softmax"
    return How(
        which=str(args[1]) if call.operation == "getitem" else None,
        factor=factor(call.operation, args),
        contraction=contraction_of(function, args, kwargs, inputs) if product else None,
        axis=softmax_axis(args, kwargs, dims) if softmax else None,
        overwrites=in_place(function, kwargs),
    )


def marked(
    origin: Origin, made_by: tuple[Call, How], operands: Sequence[Operand], made: Tensor
) -> Origin:
    """``origin``, and whether what was made are scores, probabilities, or heads in a fold."""
    call, how = made_by
    if call.operation == "matmul":
        scores = _scores(call, how.contraction, operands)
        return replace(origin, scores=scores and replace(scores, sizes=tuple(made.shape[-2:])))
    if call.operation in _PRODUCTS:
        return origin
    for operand in operands:
        before = operand.origin
        if before.scores is None and before.probabilities is None:
            continue
        if call.operation == "softmax" and before.scores is not None:
            return replace(origin, probabilities=normalised(before.scores, call, how.axis))
        return _carried(origin, operand, made, how.factor)
    return _folded(origin, (call, how), operands[0], made) if len(operands) == 1 else origin


def _scores(
    call: Call, contraction: Contraction | None, operands: Sequence[Operand]
) -> Scores | None:
    """A product may be of queries and keys: of two activations, or of one and what is learned."""
    if contraction is not None:
        operands = [one for one in operands if one.at in contraction.positions]
    query, *others = [one.origin for one in operands]
    if not any(one.from_batch for one in others) or not (query.from_batch or query.learned):
        return None
    heads = {one.at: one.origin.heads for one in operands}
    scaled = {one.at: one.origin.scaled for one in operands if one.origin.scaled is not None}
    known = contraction is not None and len(set(heads.values())) == 1
    return Scores(
        product=call,
        contraction=contraction,
        scale=1.0 if contraction is None else contraction.alpha,
        heads=heads[operands[0].at] if known else None,
        scaled=tuple(scaled.items()),
    )


def _carried(origin: Origin, operand: Operand, made: Tensor, factor: float | None) -> Origin:
    """What is known of scores or probabilities, of what an operation has made of them."""
    scores, probabilities = operand.origin.scores, operand.origin.probabilities
    scores = scores and carried(scores, operand.tensor, made)
    if scores is not None and scores.scale is not None:
        scores = replace(scores, scale=None if factor is None else scores.scale * factor)
    probabilities = probabilities and carried(probabilities, operand.tensor, made)
    return replace(origin, scores=scores, probabilities=probabilities)


def _folded(origin: Origin, made_by: tuple[Call, How], operand: Operand, made: Tensor) -> Origin:
    """Whether heads are folded into samples, and whether a number has scaled the whole."""
    call, how = made_by
    before = operand.tensor
    same = sorted(before.shape) == sorted(made.shape) or before.shape[1:] == made.shape
    heads = heads_folded(before, made) or (operand.origin.heads if same else None)
    multiplied = call.operation == "mul" or "div" in call.operation
    scaled = None
    if multiplied and how.factor is not None and not how.overwrites and origin.from_batch:
        scaled = Scaled(call=call, position=operand.at, factor=how.factor)
    return replace(origin, heads=heads, scaled=scaled)
