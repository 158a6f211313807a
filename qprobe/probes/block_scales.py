"""The scales of an operand's blocks, what is left in each block, and how codes are used."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from qprobe.errors import InputError
from qprobe.probes.base import Field, SiteView
from qprobe.probes.composite import Composite
from qprobe.probes.operands import PerOperand, Taken, specs_at, taken, wanted
from qprobe.probes.selection import multiplies
from qprobe.quant.formats import BlockFormat
from qprobe.quant.products import Setup
from qprobe.quant.recipe import QuantRecipe
from qprobe.records.schema import Role
from qprobe.sites import Site
from qprobe.stats import (
    BlockRanges,
    CodeOccupancy,
    block_ranges,
    block_scales,
    code_occupancy,
    in_blocks,
)
from qprobe.stats.codes import BlockScales as Scales


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksOfProduct(Composite):
    """Scales, ranges and codes of one operand."""

    scales: Scales
    ranges: BlockRanges
    codes: CodeOccupancy

    def scalars(self) -> Mapping[str, Tensor]:
        """``n`` counts blocks; ``block_`` is before rounding, ``code_`` shares of elements."""
        found = dict(self.scales.scalars())
        found |= {f"block_{k}": v for k, v in self.ranges.scalars().items() if k != "n"}
        codes = dict(self.codes.scalars())
        found["elements"] = codes.pop("n")
        return found | {k if k.startswith("code") else f"code_{k}": v for k, v in codes.items()}

    def arrays(self) -> dict[str, Tensor]:
        """Counts of scales by eighths of an octave, of block ranges by quarters, and of codes."""
        parts = (self.scales, self.ranges, self.codes)
        return {key: value for part in parts for key, value in part.arrays().items()}


class BlockScales:
    """Distribution of block scales, blocks rounded to zero, range of blocks, use of the 16 codes.

    For every operand that the recipe in force, or one that is asked for, cuts into blocks: rowwise
    (``fprop.x``, ``fprop.w``, ``dgrad.dy``) and columnwise (``wgrad.x``, ``dgrad.w``, ``wgrad.dy``)
    in blocks of 1×16 or, for weights, tiles of 16×16, of which each row counts as a block. Keys are
    ``wgrad.x.block_rounded_to_zero`` and alike. They are of the recipe itself: a quantizer that was
    put in its place tells nothing of its codes. Integers have no blocks and no key.
    """

    name = "block_scales"
    #: The output, whose dtype says what autocast made of the operands.
    needs: frozenset[Role | Field] = frozenset({Role.OUTPUT})
    every: ClassVar[int] = 100

    def __init__(self, recipe: str | QuantRecipe | None = None) -> None:
        self._wanted = wanted(recipe)
        if self._wanted is not None and not _has_blocks(self._wanted.recipe):
            raise InputError(
                f"{self._wanted.recipe.name} has no blocks, so there are no block scales to "
                "measure; ask for a recipe of nvfp4, or for the probe operand_error."
            )

    def selects(self, site: Site) -> bool:
        return multiplies(site)

    def compares(self, site: Site, setup: Setup | None) -> bool:
        specs = specs_at(site, self._wanted or setup)
        return any(isinstance(spec.format, BlockFormat) for spec in specs)

    def observe(self, view: SiteView) -> PerOperand[BlocksOfProduct] | None:
        return PerOperand.of(
            {
                one.key: _look(one, one.operand.spec.format.block)
                for one in taken(view, self._wanted)
                if isinstance(one.operand.spec.format, BlockFormat)
            }
        )


def _look(one: Taken, size: int) -> BlocksOfProduct:
    grid = one.grid()
    before, after, codes = (in_blocks(t, size, 1) for t in (grid.x, grid.values(), grid.codes))
    return BlocksOfProduct(
        scales=block_scales(grid.scale.movedim(1, -1), codes),
        ranges=block_ranges(before, after),
        codes=code_occupancy(grid.codes),
    )


def _has_blocks(recipe: QuantRecipe) -> bool:
    return any(
        isinstance(spec.format, BlockFormat)
        for gemm in (recipe.fprop, recipe.dgrad, recipe.wgrad)
        for spec in gemm.specs()
    )
