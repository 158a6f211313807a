"""The random Hadamard transform of 16: spreads an outlier over its group, and is undone exactly.

``R = diag(signs) · H16 / 4`` with H16 in Sylvester order, so that ``R Rᵀ = I``. The signs are fixed
and multiply the inputs: bit i of the mask 0xD7E8 is set where sign i is −1.
"""

from typing import Final

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.quant.fold import Axis, fold

SIZE: Final = 16
SIGN_MASK: Final = 0xD7E8


_matrices: dict[torch.device, Tensor] = {}


def matrix(device: torch.device) -> Tensor:
    """R as float32, one row per input.

    >>> torch.equal(matrix(torch.device("cpu")) @ matrix(torch.device("cpu")).T, torch.eye(16))
    True
    """
    if device in _matrices:
        return _matrices[device]
    with torch.inference_mode(False):  # it is kept, and may be part of a graph later
        made = _made(device)
    if type(made) is Tensor:  # one made under a fake mode is worth nothing outside
        _matrices[device] = made
    return made


def _made(device: torch.device) -> Tensor:
    """The matrix, computed where it is needed: a copy from the host would wait for the device."""
    i = torch.arange(SIZE, device=device)
    common = i[:, None] & i
    common = common ^ common >> 2
    odd = (common ^ common >> 1) & 1  # how many bits i and j share
    minus = torch.full_like(i, SIGN_MASK) >> i & 1
    return (1 - 2 * (odd ^ minus[:, None])).to(torch.float32) / 4.0


def rotate(x: Tensor, axis: Axis = -1, inverse: bool = False) -> Tensor:
    """Rotate ``x`` in groups of 16 along ``axis``; the arithmetic is float32, the result x's dtype.

    So a bfloat16 tensor is rounded to bfloat16 after the rotation, as Transformer Engine does.

    >>> x = torch.eye(16)
    >>> torch.equal(rotate(rotate(x, 1), 1, inverse=True), x)
    True
    """
    if not x.is_floating_point():
        raise InputError(f"a rotation needs floating point numbers, got {x.dtype}.")
    folded = fold(x, axis, SIZE)
    length = folded.x.shape[1]
    if length % SIZE:
        raise InputError(
            f"a rotation works on groups of {SIZE}, and axis {axis} of {list(x.shape)} has "
            f"{length} elements; pad it with zeros first."
        )
    return folded.unfold(rotate_folded(folded.x.float(), inverse).to(x.dtype))


def rotate_folded(x: Tensor, inverse: bool = False) -> Tensor:
    """The same for float32 ``[outer, length, inner]``, ``length`` a multiple of 16."""
    outer, length, inner = x.shape
    r = matrix(x.device)
    if inner == 1:
        groups = x.reshape(-1, SIZE)
        return (groups @ (r.T if inverse else r)).view(outer, length, inner)
    columns = x.view(outer * length // SIZE, SIZE, inner)
    return torch.matmul(r if inverse else r.T, columns).view(outer, length, inner)
