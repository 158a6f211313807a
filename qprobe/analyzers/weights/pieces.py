"""A weight, piece by piece, each piece quantized as it would be within the whole."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

#: Outputs of a piece come in whole 2D tiles.
TILE = 16
#: Elements of a piece: it and a few results stay in a cache of some megabytes.
_PIECE = 1 << 19

Rows = Callable[[int, int], Tensor]


def starts(outputs: int, inputs: int, limit: int | None) -> Iterator[tuple[int, int]]:
    """Ranges of outputs, in whole tiles; with a ``limit`` of elements, tiles spread evenly.

    >>> list(starts(40, 16, None)), list(starts(64, 16, 512))
    ([(0, 40)], [(0, 16), (32, 48)])
    """
    tiles = -(-outputs // TILE)
    if limit is not None and outputs * inputs > limit:
        wanted = max(2, limit // (TILE * inputs))
        for number in range(min(wanted, tiles)):
            first = number * tiles // min(wanted, tiles) * TILE
            yield first, min(first + TILE, outputs)
        return
    step = max(1, _PIECE // (TILE * inputs)) * TILE
    for first in range(0, outputs, step):
        yield first, min(first + step, outputs)


def with_largest(piece: Tensor, largest: Tensor) -> Tensor:
    """``piece`` over one more tile that holds the whole tensor's largest magnitude.

    So what shares a scale over the whole tensor has it in every piece, and a result is cut off
    again by ``[:len(piece)]``.
    """
    fill = -len(piece) % TILE
    tail = torch.zeros(fill + 1, *piece.shape[1:])
    tail[(fill, *[0] * (piece.dim() - 1))] = largest
    return torch.cat([piece, tail])


def padded(piece: Tensor, axis: int, multiple: int) -> Tensor:
    """``piece`` with ``axis`` filled with zeros to a multiple."""
    missing = -piece.shape[axis] % multiple
    if not missing:
        return piece
    return F.pad(piece, [0, 0] * (piece.dim() - 1 - axis % piece.dim()) + [0, missing])
