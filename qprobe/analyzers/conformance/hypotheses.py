"""What could have gone wrong with a quantizer, as values that it would then have given.

Each hypothesis is fitted to the tensors that went in and came out: a factor, a constant, an axis, a
number of bits. It then says element by element whether it explains what came out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qprobe.analyzers.conformance.lattice import TOLERANCE, Lattice, integers, magnitudes
from qprobe.quant.absmax import group_absmax
from qprobe.quant.formats import BlockFormat, IntFormat
from qprobe.quant.quantize import Operand
from qprobe.quant.rounding import Rounding, e4m3_nearest
from qprobe.quant.spec import Granularity, Tile
from qprobe.records.schema import Cause

#: E4M3: its smallest number, and its largest.
_SMALLEST, _LARGEST = 2.0**-9, 448.0
#: The smallest magnitude that came out may be this many times the smallest that there is.
_MULTIPLES = (1.0, 2.0, 3.0, 4.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Given:
    """What a quantizer got and gave, and what the recipe intends it to give."""

    x: Tensor
    values: Tensor
    intended: Tensor
    #: What a code is multiplied with, by the recipe.
    unit: Tensor
    operand: Operand

    @property
    def rounding(self) -> Rounding:
        return self.operand.spec.rounding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """One cause, what was fitted, and which elements it accounts for."""

    cause: Cause
    #: Of scales: the factor by which they are too large, or the constant that took their place;
    #: of bits: how many there are; of an axis: which.
    parameter: float
    accounts: Tensor


def explanations(given: Given) -> Iterator[Explanation]:
    """Every hypothesis that applies to the operand, the most special first."""
    absmax = group_absmax(given.x, given.operand)
    yield from _missing_scale(given, absmax)
    yield from _few_bits(given, absmax)
    yield from _wrong_scale(given)
    yield from _wrong_axis(given, absmax)


def _on(given: Given, cause: Cause, parameter: float, lattice: Lattice) -> Explanation:
    accounts = lattice.explains(given.values, given.x, given.rounding)
    return Explanation(cause=cause, parameter=parameter, accounts=accounts)


def _missing_scale(given: Given, absmax: Tensor) -> Iterator[Explanation]:
    """Block scales in E4M3 times one constant that has nothing to do with the tensor."""
    form = given.operand.spec.format
    if not isinstance(form, BlockFormat) or not form.tensor_scale:
        return
    largest = form.element.largest
    constants = _constants(given, absmax, form)
    for constant in constants:
        if constant > 0.0:
            unit = e4m3_nearest((absmax / (largest * constant)).contiguous()) * constant
            lattice = Lattice(unit=unit, magnitudes=form.element.magnitudes)
            yield _on(given, Cause.SCALE_MISSING, constant, lattice)


def _constants(given: Given, absmax: Tensor, form: BlockFormat) -> list[float]:
    """What may stand for the factor of the tensor: 1, or what the values came from.

    The smallest value is a multiple of the smallest scale, the largest that of the largest. Where
    all scales are normal numbers, only their mantissas tell: one of eight for any group.
    """
    largest, some = form.element.largest, _nonzero(given.values)
    if some is None:
        return [1.0, float(absmax.max()) / largest / _SMALLEST * 4.0]
    smallest = form.element.magnitudes[1] * _SMALLEST
    constants = [1.0, *(float(some.min()) / smallest / k for k in _MULTIPLES)]
    constants.append(float(some.max()) / (_LARGEST * largest))
    unit = float(group_absmax(given.values, given.operand).max()) / largest
    return constants + [unit / (1.0 + eighth / 8.0) / 64.0 for eighth in range(8)]


def _few_bits(given: Given, absmax: Tensor) -> Iterator[Explanation]:
    """Integers of fewer bits, scaled as they should be."""
    form = given.operand.spec.format
    bits = form.bits if isinstance(form, IntFormat) else form.element.bits
    for fewer in range(2, bits):
        levels = integers(fewer)
        lattice = Lattice(unit=absmax / levels[-1], magnitudes=levels)
        yield _on(given, Cause.TOO_FEW_BITS, float(fewer), lattice)


def _wrong_scale(given: Given) -> Iterator[Explanation]:
    """All scales too large or too small by one factor: those of another time, or cut off."""
    levels = magnitudes(given.operand)
    for factor in _factors(given, levels):
        lattice = Lattice(unit=given.unit * factor, magnitudes=levels)
        yield _on(given, Cause.SCALE_WRONG, factor, lattice)


def _factors(given: Given, levels: tuple[float, ...]) -> list[float]:
    """By how much scales may be off: from the largest values of groups and from the smallest."""
    there = (given.values != 0) & (given.unit > 0)
    if not bool(there.any()):
        return [4.0 * levels[-1] / levels[1]]
    codes = given.values[there].abs() / given.unit.expand_as(given.x)[there]
    peaks = group_absmax(given.values, given.operand)[there]
    peaks = peaks / (given.unit.expand_as(given.x)[there] * levels[-1])
    candidates = [float(peaks.median()), float(codes.median()) / levels[1]]
    candidates += [float(codes.min()) / levels[1] / k for k in _MULTIPLES]
    return [one for one in candidates if one > 0.0 and abs(one - 1.0) > TOLERANCE]


def _wrong_axis(given: Given, absmax: Tensor) -> Iterator[Explanation]:
    """Scales of another axis: taken for reading back, or for rounding as well."""
    if not _has_an_axis(given.operand):
        return
    for axis, axes in enumerate(_other_axes(given)):
        wrong = group_absmax(given.x, replace(given.operand, axes=axes))
        ratio = torch.where(absmax > 0, wrong / torch.where(absmax > 0, absmax, 1.0), 1.0)
        read_back = given.intended * ratio
        same = (given.values - read_back).abs() <= TOLERANCE * read_back.abs()
        yield Explanation(cause=Cause.WRONG_AXIS, parameter=float(axis), accounts=same)
        yield _on(given, Cause.WRONG_AXIS, float(axis), _along(given, wrong))


def _along(given: Given, absmax: Tensor) -> Lattice:
    """The lattice of groups with these largest magnitudes."""
    form = given.operand.spec.format
    levels = magnitudes(given.operand)
    unit = absmax / levels[-1]
    if isinstance(form, BlockFormat) and form.tensor_scale:
        tensor = given.x.abs().amax().float() / (_LARGEST * levels[-1])
        unit = e4m3_nearest((unit / tensor).contiguous()) * tensor
    return Lattice(unit=unit, magnitudes=levels)


def _has_an_axis(operand: Operand) -> bool:
    spec = operand.spec
    if isinstance(spec.format, IntFormat):
        return spec.granularity is not Granularity.TENSOR
    return spec.tile is Tile.ONE_D


def _other_axes(given: Given) -> list[tuple[int, ...]]:
    """Every other axis, alone and (an integer's channels in groups) with the first one."""
    mine = given.operand.axes if isinstance(given.operand.axes, tuple) else (given.operand.axes,)
    single = [(axis,) for axis in range(given.x.dim()) if given.x.shape[axis] > 1]
    grouped = [(0, axis) for axis in range(1, given.x.dim()) if 0 in mine and len(mine) > 1]
    return [axes for axes in (*grouped, *single) if axes != mine]


def _nonzero(values: Tensor) -> Tensor | None:
    some = values[values != 0].abs()
    return some if some.numel() else None
