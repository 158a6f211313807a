"""What happens to the scores of an attention between their product and their softmax."""

from typing import Any

from torch import Tensor

_DIVIDING = frozenset({"div", "truediv", "true_divide", "itruediv"})
#: What keeps scores as they are but for what is added to them, a mask among others.
_KEEPING = frozenset(
    (
        *("add", "masked_fill", "where", "to", "type", "type_as", "float", "double", "half"),
        *("bfloat16", "contiguous", "clone", "view", "reshape", "unsqueeze", "squeeze", "flatten"),
        *("unflatten", "expand", "dropout", "matmul", "transpose", "mT", "permute", "swapaxes"),
        *("swapdims", "movedim", "moveaxis"),
    )
)


def factor(operation: str, args: tuple[Any, ...]) -> float | None:
    """What a call multiplies the scores among its operands with; None where that is unknown.

    >>> from torch import zeros
    >>> scores = zeros(2, 2)
    >>> factor("mul", (scores, 0.5)), factor("truediv", (scores, 4)), factor("add", (1, scores))
    (0.5, 0.25, 1.0)
    >>> factor("mul", (scores, scores)), factor("tanh", (scores,))
    (None, None)
    """
    if operation in _KEEPING:
        return 1.0
    numbers = [one for one in args[:2] if isinstance(one, int | float)]
    if operation == "mul" and len(numbers) == 1:
        return float(numbers[0])
    if operation in _DIVIDING and numbers and args[1:2] == (numbers[0],):
        return 1.0 / float(numbers[0])
    tensor_first = bool(args) and isinstance(args[0], Tensor)
    return 1.0 if operation == "sub" and tensor_first else None
