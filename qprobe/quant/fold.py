"""Any tensor, along any axis, as dense ``[outer, length, inner]`` with that axis in the middle.

Quantizing along an axis then needs no transposed copy: a tensor is taken in the order in which it
lies in memory, channels-last included, and the result lies in memory the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from torch import Tensor

from qprobe.errors import InputError

Axis = int | tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A tensor seen along an axis."""

    #: ``[outer, length, inner]``, contiguous; shares memory with the original where it can.
    x: Tensor
    #: The order of the original axes in memory, slowest first.
    order: tuple[int, ...]
    #: Sizes of the axes in that order.
    sizes: tuple[int, ...]
    #: The middle, as a range of positions in ``order``.
    middle: range

    def unfold(self, y: Tensor) -> Tensor:
        """A result of the same ``[outer, length, inner]`` in the shape of the original."""
        return y.view(self.sizes).permute(self._inverse())

    def unfold_blocks(self, blocks: Tensor) -> Tensor:
        """Block values ``[outer, blocks, inner]`` in the original's shape, blocks for the axis."""
        if len(self.middle) != 1:
            raise InputError("block values of several axes read as one have no axis of their own.")
        sizes = list(self.sizes)
        sizes[self.middle.start] = blocks.shape[1]
        return blocks.view(sizes).permute(self._inverse())

    def arrange(self, same: Tensor) -> Tensor:
        """Another tensor of the original's shape, folded alike: a view where that is possible."""
        return same.permute(self.order).reshape(self.x.shape)

    def beside(self, partner: int, blocks: int) -> tuple[int, int, int]:
        """``[outer, blocks, inner]`` values seen along another axis than the middle."""
        at = self.order.index(partner)
        if at < self.middle.start:
            between = prod(self.sizes[at + 1 : self.middle.start])
            return (
                prod(self.sizes[:at]),
                self.sizes[at],
                between * blocks * self.x.shape[2],
            )
        between = prod(self.sizes[self.middle.stop : at])
        return self.x.shape[0] * blocks * between, self.sizes[at], prod(self.sizes[at + 1 :])

    def _inverse(self) -> tuple[int, ...]:
        inverse = [0] * len(self.order)
        for position, axis in enumerate(self.order):
            inverse[axis] = position
        return tuple(inverse)


def fold(x: Tensor, axis: Axis, block: int = 1) -> Folded:
    """See ``x`` along ``axis``; several axes are read as one, in the order given.

    Leading axes are left out where blocks of ``block`` elements would not cross them anyway, which
    saves a copy and changes nothing.

    >>> import torch
    >>> image = torch.zeros(2, 32, 8, 8)
    >>> fold(image, 1).x.shape, fold(image.to(memory_format=torch.channels_last), 1).x.shape
    (torch.Size([2, 32, 64]), torch.Size([128, 32, 1]))
    >>> fold(image, (0, 2, 3), 16).x.shape
    torch.Size([64, 64, 1])
    """
    order, middle = _plan(tuple(x.shape), x.stride(), resolve(x, axis), block)
    dense = x.permute(order).contiguous()
    sizes = tuple(dense.shape)
    outer, length = prod(sizes[: middle.start]), prod(sizes[middle.start : middle.stop])
    return Folded(
        x=dense.view(outer, length, prod(sizes[middle.stop :])),
        order=order,
        sizes=sizes,
        middle=middle,
    )


@lru_cache(1024)  # a model's layers ask with the same few shapes in every step
def _plan(
    shape: tuple[int, ...], strides: tuple[int, ...], axes: tuple[int, ...], block: int
) -> tuple[tuple[int, ...], range]:
    """The order of the axes, and where in it the middle is."""
    order = memory_order(shape, strides) or tuple(range(len(shape)))
    run = _adjacent(order, axes)
    if run != axes and prod(shape[a] for a in run) % block:
        order = (*(a for a in order if a not in axes), *axes)
        run = axes
    start = order.index(run[0]) if run else 0
    return order, range(start, order.index(run[-1]) + 1 if run else 0)


def resolve(x: Tensor, axis: Axis) -> tuple[int, ...]:
    """``axis`` as distinct non-negative axes of ``x``."""
    given = (axis,) if isinstance(axis, int) else tuple(axis)
    if not given:
        raise InputError("an axis to quantize along is needed, got none.")
    for a in given:
        if not -x.dim() <= a < x.dim():
            raise InputError(f"axis {a} is not one of a tensor of shape {list(x.shape)}.")
    axes = tuple(a % x.dim() for a in given)
    if len(set(axes)) != len(axes):
        raise InputError(f"axis {list(given)} names one axis twice.")
    return axes


def memory_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes from slowest to fastest where a tensor fills its memory, else ``None``."""
    order = tuple(sorted(range(len(shape)), key=lambda a: (-strides[a], a)))
    expected = 1
    for a in reversed(order):
        if shape[a] == 1:
            continue
        if strides[a] != expected:
            return None
        expected *= shape[a]
    return _with_units_in_place(shape, order)


def _with_units_in_place(shape: tuple[int, ...], order: Sequence[int]) -> tuple[int, ...]:
    """Axes of size one have strides that mean nothing: keep them where indexing would have them."""
    long = [a for a in order if shape[a] > 1]
    if len(long) == len(order):
        return tuple(order)
    if long == sorted(long):
        return tuple(range(len(order)))
    return (*(a for a in order if shape[a] == 1), *long)


def _adjacent(order: Sequence[int], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The longest tail of ``axes`` that lies side by side in memory, in this order."""
    positions = [order.index(a) for a in axes]
    first = len(axes) - 1
    while first > 0 and positions[first - 1] == positions[first] - 1:
        first -= 1
    return axes[first:]
