"""The values that a group of elements may take, and whether a quantizer's values are among them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qprobe.quant.formats import IntFormat
from qprobe.quant.quantize import Operand
from qprobe.quant.rounding import Rounding

#: Values of one lattice are told apart from another's by more than float32 arithmetic blurs them.
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lattice:
    """Multiples ``±magnitudes · unit``; what lies beyond the largest is cut off.

    ``unit`` broadcasts against the operand and is zero where nothing but zero is left.
    """

    unit: Tensor
    magnitudes: tuple[float, ...]

    def explains(self, values: Tensor, x: Tensor, rounding: Rounding) -> Tensor:
        """Which of the values are what rounding ``x`` to this lattice gives.

        To nearest: the neighbour that is not farther than the other; stochastically: either.

        >>> grid = Lattice(unit=torch.tensor(1.0), magnitudes=(0.0, 1.0, 2.0))
        >>> x, values = torch.tensor([0.4, 0.4, -1.2, 9.0]), torch.tensor([0.0, 1.0, -1.5, 2.0])
        >>> grid.explains(values, x, Rounding.NEAREST_EVEN).tolist()
        [True, False, False, True]
        >>> grid.explains(values, x, Rounding.STOCHASTIC).tolist()
        [True, True, False, True]
        """
        table = torch.tensor(self.magnitudes, dtype=torch.float32, device=x.device)
        unit = self.unit.to(torch.float32)
        there = unit > 0
        size = torch.where(there, x.abs() / torch.where(there, unit, 1.0), 0.0)
        size = size.clamp(max=self.magnitudes[-1])
        above = torch.searchsorted(table, size.contiguous()).clamp(max=len(table) - 1)
        below = (above - 1).clamp(min=0)
        high, low = table[above] * unit, table[below] * unit
        target = size * unit
        slack = TOLERANCE * unit * size.clamp(min=0.5)
        found = values.abs()
        to_high, to_low = (found - high).abs() <= slack, (found - low).abs() <= slack
        if rounding is not Rounding.STOCHASTIC:
            to_high &= high - target <= target - low + slack
            to_low &= target - low <= high - target + slack
        signed = (values * x >= 0) | (found == 0)
        return (to_high | to_low) & signed


def magnitudes(operand: Operand) -> tuple[float, ...]:
    """The magnitudes of an operand's format, in units of its scale.

    >>> from qprobe.quant import INT3, QuantSpec
    >>> magnitudes(Operand(axes=0, spec=QuantSpec(format=INT3)))
    (0.0, 1.0, 2.0, 3.0)
    """
    form = operand.spec.format
    if isinstance(form, IntFormat):
        return integers(form.bits)
    return form.element.magnitudes


def integers(bits: int) -> tuple[float, ...]:
    """The magnitudes of symmetric integers."""
    return tuple(float(code) for code in range(2 ** (bits - 1)))
