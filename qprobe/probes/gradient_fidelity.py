"""How true a layer's quantized gradients are, beside the noise of the mini-batch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.probes.base import Field, SiteView
from qprobe.probes.composite import Composite
from qprobe.quant import catalogue
from qprobe.quant.layers import kernel_of
from qprobe.quant.products import Products, Setup
from qprobe.quant.recipe import Gemm, QuantRecipe
from qprobe.quant.rounding import Rounding
from qprobe.records.schema import Role
from qprobe.sites import Site
from qprobe.stats import (
    BatchNoise,
    GradientError,
    RoundingError,
    batch_noise,
    gradient_error,
    rounding_error,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientsUnderRecipe(Composite):
    """What is known of dw and dx; None for a product that the recipe leaves in high precision."""

    wgrad: GradientError | None
    dgrad: GradientError | None
    #: Of recipes that round stochastically, over several draws.
    wgrad_draws: RoundingError | None
    dgrad_draws: RoundingError | None
    #: Between halves of the examples; None of a single example.
    noise: BatchNoise | None

    def scalars(self) -> Mapping[str, Tensor]:
        """All of them, under the name of the product: ``wgrad.cosine``."""
        parts = {
            "wgrad": self.wgrad,
            "dgrad": self.dgrad,
            "wgrad.draws": self.wgrad_draws,
            "dgrad.draws": self.dgrad_draws,
            "wgrad.halves": self.noise,
        }
        found: dict[str, Tensor] = {}
        for title, part in parts.items():
            if part is not None:
                found |= {f"{title}.{key}": value for key, value in part.scalars().items()}
        counts = [found[key] for key in ("wgrad.n", "dgrad.n") if key in found]
        return {"n": counts[0], **found}


class GradientFidelity:
    """Cosine, norm ratio, bias and variance of dw and dx under a recipe, on a few examples.

    The gradient of the output and the input of one call are multiplied twice, in high precision and
    as the recipe does it, by the layer's own kernels. Of a recipe that rounds stochastically,
    ``draws`` draws tell bias from variance; they come from a generator of the probe's own. Where
    there are two examples or more, the gradients of two halves say how much the choice of the batch
    matters beside rounding.

    Local to the layer: what quantization elsewhere did to the arriving gradient is in both.
    Calls merge as pieces of one long gradient.
    """

    name = "gradient_fidelity"
    needs: frozenset[Role | Field] = frozenset({Role.INPUT, Role.WEIGHT, Role.GRAD_OUTPUT})
    #: Steps between two looks, unless the session is told otherwise: this multiplies anew.
    every = 100

    def __init__(self, recipe: str | QuantRecipe | None = None, draws: int = 4) -> None:
        if draws < 2:
            raise InputError(f"bias is told from variance by at least 2 draws, got {draws}.")
        named = catalogue.recipe(recipe) if isinstance(recipe, str) else recipe
        self._asked = named and Setup(recipe=named)
        self._draws = draws

    def selects(self, site: Site) -> bool:
        return site.role is Role.GRAD_OUTPUT and site.kind.startswith(("linear", "conv"))

    def compares(self, site: Site, setup: Setup | None) -> bool:
        return _quantizes(self._asked or setup)

    def observe(self, view: SiteView) -> GradientsUnderRecipe | None:
        call = _Call.of(view, self._asked or view.setup)
        if call is None:
            return None
        recipe = call.products.setup.recipe
        dws = call.wgrads(self._count(recipe.wgrad))
        dxs = call.dgrads(self._count(recipe.dgrad))
        dw, dx = call.reference.wgrad(call.wide), call.reference.dgrad(call.wide)
        return GradientsUnderRecipe(
            wgrad=gradient_error(dw, dws[0]) if dws else None,
            dgrad=gradient_error(dx, dxs[0]) if dxs else None,
            wgrad_draws=rounding_error(dw, dws) if len(dws) > 1 else None,
            dgrad_draws=rounding_error(dx, dxs) if len(dxs) > 1 else None,
            noise=call.noise() if dws else None,
        )

    def _count(self, gemm: Gemm) -> int:
        """How many times a product is computed."""
        if not gemm.quantizes:
            return 0
        random = any(spec.rounding is Rounding.STOCHASTIC for spec in gemm.specs())
        return self._draws if random else 1


def _quantizes(setup: Setup | None) -> bool:
    recipe = catalogue.BF16 if setup is None else setup.recipe
    return recipe.wgrad.quantizes or recipe.dgrad.quantizes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Call:
    """One call's products under the recipe and in high precision, and its gradient for each."""

    products: Products
    reference: Products
    dy: Tensor
    wide: Tensor

    @classmethod
    def of(cls, view: SiteView, setup: Setup | None) -> "_Call | None":
        if setup is None or view.module is None or not _quantizes(setup):
            return None
        dy, x, w = view[Role.GRAD_OUTPUT], view[Role.INPUT], view[Role.WEIGHT]
        if not dy.numel() or not x.numel():
            return None
        if view.site.kind.startswith("conv") and x.dim() == w.dim() - 1:
            x, dy = x.unsqueeze(0), dy.unsqueeze(0)
        # The gradient has the dtype that autocast gave the operands.
        kernel, x = kernel_of(view.module, x.to(dy.dtype), w, dy.shape)
        generator = None
        if setup.recipe.random:
            generator = torch.Generator(dy.device).manual_seed(view.draw)
        quantized = replace(setup, generator=generator)
        wide = torch.promote_types(dy.dtype, torch.float32)
        return cls(
            products=Products(x=x, w=w.to(dy.dtype), kernel=kernel, setup=quantized),
            reference=Products(x=x.to(wide), w=w.to(wide), kernel=kernel, setup=_HIGH),
            dy=dy,
            wide=dy.to(wide),
        )

    def wgrads(self, count: int) -> list[Tensor]:
        return [self.products.wgrad(self.dy) for _ in range(count)]

    def dgrads(self, count: int) -> list[Tensor]:
        return [self.products.dgrad(self.dy) for _ in range(count)]

    def noise(self) -> BatchNoise | None:
        """What the choice of the examples does to dw, and rounding to that of the first half."""
        half = len(self.dy) // 2
        if half == 0:
            return None
        first, second = slice(0, half), slice(half, 2 * half)
        one, other = (
            replace(self.reference, x=self.reference.x[part]).wgrad(self.wide[part])
            for part in (first, second)
        )
        quantized = replace(self.products, x=self.products.x[first]).wgrad(self.dy[first])
        return batch_noise(one, other, quantized)


_HIGH = Setup(recipe=catalogue.BF16)
