"""Numbers calls while they are traced, so that compiled code knows which is which."""

from itertools import count

import torch

_calls = count()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def traced_call() -> int:
    """A number that no other traced call has.

    It is drawn once, when the call is traced, and is a constant in the graph: a count that hooks
    keep themselves would be a state, by which the graph were compiled anew at each call.

    >>> traced_call() < traced_call()
    True
    """
    return next(_calls)
