"""What is quantized how: three matrix products with two operands each, as one frozen value.

A layer ``y = x·wᵀ`` is three products, named by what they make ready:

=======  =============  =====  =====
product  computes       a      b
=======  =============  =====  =====
fprop    ``y = x·wᵀ``   ``x``  ``w``
dgrad    ``dx = dy·w``  ``dy`` ``w``
wgrad    ``dw = dyᵀ·x`` ``dy`` ``x``
=======  =============  =====  =====

Each operand is quantized along the axis that its product sums over, so ``w`` in fprop and ``w`` in
dgrad are two different quantizations of one tensor. A recipe that contradicts itself does not
construct.
"""

from dataclasses import dataclass
from enum import Enum

from qprobe.errors import InputError
from qprobe.quant.formats import BlockFormat, IntFormat
from qprobe.quant.hadamard import SIZE
from qprobe.quant.rounding import Rounding
from qprobe.quant.spec import QuantSpec, Tile


class Source(Enum):
    """An operand of a backward product that is not quantized anew."""

    REUSE_FPROP = "fprop's"
    """The values that fprop used, in high precision arithmetic: the exact chain rule through it."""


REUSE_FPROP = Source.REUSE_FPROP

#: How an operand is taken: quantized, as fprop quantized it, or (``None``) in high precision.
How = QuantSpec | Source | None

_TITLES = {"fprop": ("x", "w"), "dgrad": ("dy", "w"), "wgrad": ("dy", "x")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """One matrix product: how its operands are quantized, and whether both are rotated first.

    >>> from qprobe.quant.formats import NVFP4
    >>> Gemm(a=QuantSpec(format=NVFP4), hadamard=16)
    Traceback (most recent call last):
    qprobe.errors.InputError: a rotation cancels unless both operands are quantized anew; ...
    """

    a: How = None
    b: How = None
    #: Size of the Hadamard transform applied to both operands along the axis summed over.
    hadamard: int | None = None

    def __post_init__(self) -> None:
        if self.a is Source.REUSE_FPROP:
            raise InputError("operand a of a product (x or dy) cannot be taken from fprop.")
        if self.hadamard is None:
            return
        if self.hadamard != SIZE:
            raise InputError(f"the Hadamard transform has size {SIZE}, got {self.hadamard}.")
        for how in (self.a, self.b):
            if not isinstance(how, QuantSpec):
                raise InputError(
                    "a rotation cancels unless both operands are quantized anew; "
                    "give a and b a QuantSpec or drop hadamard."
                )
            if not isinstance(how.format, BlockFormat):
                raise InputError(f"a rotation is for block formats, got {how.format}.")
            if how.tile is Tile.TWO_D:
                raise InputError("a rotated operand has 1d blocks; a 2d tile spans the other axis.")

    @property
    def quantizes(self) -> bool:
        """Whether anything here differs from high precision."""
        return self.a is not None or self.b is not None

    def specs(self) -> list[QuantSpec]:
        """The operands that are quantized anew."""
        return [how for how in (self.a, self.b) if isinstance(how, QuantSpec)]

    def cells(self) -> tuple[str, str]:
        """What happens to a and to b, for tables."""
        return _cell(self.a, self.hadamard), _cell(self.b, self.hadamard)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantRecipe:
    """A named answer to: what is quantized how?

    ``attention`` is for the products inside :class:`~qprobe.quant.attention.ScaledDotProduct`:
    ``a`` for q and the probabilities, ``b`` for k and v; their gradients pass straight through.
    ``skip`` holds globs of module paths that stay in high precision whatever else is asked for.
    """

    name: str
    fprop: Gemm = Gemm()
    dgrad: Gemm = Gemm()
    wgrad: Gemm = Gemm()
    attention: Gemm | None = None
    skip: tuple[str, ...] = ()
    #: One sentence for people.
    summary: str
    #: Where it comes from.
    reference: str

    def __post_init__(self) -> None:
        for field in ("name", "summary", "reference"):
            if not getattr(self, field).strip():
                raise InputError(f"a recipe needs a {field}.")
        if not isinstance(self.skip, tuple):
            raise InputError(f"skip is a tuple of globs, got {self.skip!r}.")
        self._check_fprop(self.fprop, "fprop")
        if self.attention is not None:
            self._check_fprop(self.attention, "attention")
            self._check_attention(self.attention)
        for title in ("dgrad", "wgrad"):
            self._check_backward(title, getattr(self, title))

    def _check_fprop(self, gemm: Gemm, title: str) -> None:
        if gemm.b is Source.REUSE_FPROP:
            raise InputError(f"{self.name}: {title} cannot reuse fprop's values.")
        for spec in gemm.specs():
            if spec.rounding is Rounding.STOCHASTIC:
                raise InputError(
                    f"{self.name}: {title} rounds to nearest; stochastic rounding is for dy, where "
                    "its mean counts."
                )
        self._check_tile(title, gemm.a)

    def _check_attention(self, gemm: Gemm) -> None:
        for spec in gemm.specs():
            if spec.tile is Tile.TWO_D:
                raise InputError(
                    f"{self.name}: attention multiplies activations, which have 1d blocks."
                )
            if isinstance(spec.format, IntFormat) and spec.granularity.depends_on_layer:
                raise InputError(
                    f"{self.name}: attention is no layer that could choose {spec.granularity}; "
                    "name tensor or token."
                )

    def _check_backward(self, title: str, gemm: Gemm) -> None:
        a, b = _TITLES[title]
        self._check_tile(title, gemm.a)
        if b == "x":
            self._check_tile(title, gemm.b)
        if isinstance(gemm.b, QuantSpec) and gemm.b.rounding is Rounding.STOCHASTIC:
            raise InputError(
                f"{self.name}: stochastic rounding in {title} is for {a}, not for {b}."
            )
        source = self.fprop.a if b == "x" else self.fprop.b
        if gemm.b is Source.REUSE_FPROP and source is None:
            raise InputError(
                f"{self.name}: {title} reuses fprop's {b}, which fprop leaves in high precision; "
                "use None."
            )

    def _check_tile(self, title: str, how: How) -> None:
        if isinstance(how, QuantSpec) and how.tile is Tile.TWO_D:
            raise InputError(
                f"{self.name}: 2d tiles are for weights, not for {title}'s activations."
            )

    @property
    def quantizes(self) -> bool:
        """Whether any layer changes under this recipe."""
        return any(gemm.quantizes for gemm in (self.fprop, self.dgrad, self.wgrad))

    @property
    def random(self) -> bool:
        """Whether it rounds stochastically, and so needs a generator."""
        return any(
            spec.rounding is Rounding.STOCHASTIC
            for gemm in (self.dgrad, self.wgrad)
            for spec in gemm.specs()
        )

    def how(self, gemm: str, operand: str) -> How:
        """How one operand of one product is taken, such as x of wgrad."""
        product: Gemm = getattr(self, gemm)
        return product.a if operand == _TITLES[gemm][0] else product.b

    def cells(self) -> dict[str, str]:
        """What happens to each operand, for tables: ``{"fprop x": "nvfp4/1d", ...}``."""
        cells = {}
        for title, operands in _TITLES.items():
            gemm: Gemm = getattr(self, title)
            for operand, cell in zip(operands, gemm.cells(), strict=True):
                cells[f"{title} {operand}"] = cell
        return cells


def _cell(how: How, hadamard: int | None) -> str:
    if how is None:
        return "–"
    if isinstance(how, Source):
        return str(how.value)
    return f"RHT {how}" if hadamard else str(how)
