"""What a recipe does to each operand of a layer's three products."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from qprobe.probes.base import Field, SiteView
from qprobe.probes.composite import Composite
from qprobe.probes.operands import PerOperand, Taken, specs_at, taken, wanted
from qprobe.probes.selection import multiplies
from qprobe.quant.products import Setup
from qprobe.quant.recipe import QuantRecipe
from qprobe.records.schema import Role
from qprobe.sites import Site
from qprobe.stats import operand_error
from qprobe.stats.quantization import OperandError as Errors

_OF_ROUNDING = ("underflow", "saturation")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorOfProduct(Composite):
    """The error of one operand as its product sees it, and where it is rounded."""

    product: Errors
    #: In the basis of the rotation, where the operand is rotated.
    rounding: Errors | None

    def scalars(self) -> Mapping[str, Tensor]:
        """Those of the product; underflow and saturation are those of rounding."""
        found = dict(self.product.scalars())
        if self.rounding is not None:
            rounded = self.rounding.scalars()
            found = {key: value for key, value in found.items() if key not in _OF_ROUNDING}
            found |= {key: rounded[key] for key in _OF_ROUNDING if key in rounded}
        return found


class OperandError:
    """SQNR, relative error, underflow and saturation of each operand, product by product.

    Under the recipe in force at the layer, or under any that is asked for, also on a model in high
    precision. Keys are ``fprop.x.sqnr_db`` and alike, at the site of the tensor: its input (x of
    fprop and wgrad), its weight (w of fprop and dgrad) or the gradient of its output (dy of dgrad
    and wgrad). An operand that stays in high precision has no key, nor has one that takes the
    values that fprop used: its error is fprop's.

    What is judged is, bit for bit, what the layer's own quantizer makes of the tensor, a planted
    fault included; only stochastic rounding draws bytes of its own, so that the model's stay where
    they were. Of a rotated operand underflow and saturation are counted where it is rounded, that
    is, after the rotation. Where the quantizer is not the recipe's, nobody knows its limits:
    saturation is missing then, and so is underflow of a rotated operand.
    """

    name = "operand_error"
    #: The output, whose dtype says what autocast made of the operands.
    needs: frozenset[Role | Field] = frozenset({Role.OUTPUT})
    every: ClassVar[int] = 100

    def __init__(self, recipe: str | QuantRecipe | None = None) -> None:
        self._wanted = wanted(recipe)

    def selects(self, site: Site) -> bool:
        return multiplies(site)

    def compares(self, site: Site, setup: Setup | None) -> bool:
        return bool(specs_at(site, self._wanted or setup))

    def observe(self, view: SiteView) -> PerOperand[ErrorOfProduct] | None:
        return PerOperand.of({one.key: _judge(one) for one in taken(view, self._wanted)})


def _judge(one: Taken) -> ErrorOfProduct:
    if not one.faithful:
        return ErrorOfProduct(product=operand_error(one.x, one.values()), rounding=None)
    grid = one.grid()
    rounding = operand_error(grid.x, grid.values(), grid.limit())
    if one.operand.hadamard is None:
        return ErrorOfProduct(product=rounding, rounding=None)
    return ErrorOfProduct(product=operand_error(one.x, one.values()), rounding=rounding)
