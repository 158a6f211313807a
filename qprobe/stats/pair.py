"""Two tensors that are compared element by element."""

from collections.abc import Iterator

import torch
from torch import Tensor

from qprobe.errors import InputError

#: Elements that are compared at a time: few enough that their float64 copies stay in cache.
PIECE = 1 << 17


def check(reference: Tensor, other: Tensor, what: str) -> None:
    """Refuse tensors that cannot be compared; ``what`` names them in the message."""
    for tensor in (reference, other):
        if not tensor.is_floating_point():
            raise InputError(
                f"{what} are floating-point numbers, got {tensor.dtype}; dequantize codes first."
            )
    if reference.shape != other.shape:
        raise InputError(
            f"{what} have one shape, got {tuple(reference.shape)} and {tuple(other.shape)}; "
            "compare tensors of the same site and call."
        )


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The elements of tensors of one shape as runs of at most :data:`PIECE`, in float64.

    There is always one run; that of empty tensors is empty.

    >>> [len(run) for (run,) in pieces(torch.zeros(3, PIECE // 2))]
    [131072, 65536]
    """
    flat = [tensor.detach().reshape(-1) for tensor in tensors]
    for at in range(0, max(1, flat[0].numel()), PIECE):
        yield tuple(run[at : at + PIECE].double() for run in flat)


def products(first: Tensor, second: Tensor) -> Tensor:
    """``Σ a·b`` in float64, as a tensor without axes."""
    total = torch.zeros((), dtype=torch.float64, device=first.device)
    for a, b in pieces(first, second):
        total += torch.dot(a, b)
    return total
