"""The operands of a layer's products as a recipe takes them, for the probes of operands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.probes.attended import asked
from qprobe.probes.base import SiteView, State
from qprobe.probes.selection import OPERANDS
from qprobe.quant.layers import operand_kernel
from qprobe.quant.products import Role as Place
from qprobe.quant.products import Setup, faithful, operand_of
from qprobe.quant.quantize import Grid, Operand, on_grid
from qprobe.quant.recipe import QuantRecipe
from qprobe.quant.spec import QuantSpec
from qprobe.records.schema import Role
from qprobe.sites import Site

_PLACES = (
    *(Place("fprop", "x"), Place("fprop", "w")),
    *(Place("dgrad", "dy"), Place("dgrad", "w")),
    *(Place("wgrad", "dy"), Place("wgrad", "x")),
)

S = TypeVar("S", bound=State)


def wanted(recipe: str | QuantRecipe | None) -> Setup | None:
    """A recipe that was asked for as a setup; one that quantizes nothing is refused."""
    setup = asked(recipe)
    if setup is not None and not setup.recipe.quantizes:
        raise InputError(
            f"{setup.recipe.name} quantizes no operand, so there is nothing to measure; ask for "
            "another recipe, or for none: then each layer is seen under its own."
        )
    return setup


def specs_at(site: Site, setup: Setup | None) -> list[QuantSpec]:
    """How products quantize the site's tensor anew under a setup."""
    if setup is None or site.role not in OPERANDS:
        return []
    places = (place for place in _PLACES if place.operand == OPERANDS[site.role])
    every = (setup.recipe.how(place.gemm, place.operand) for place in places)
    return [how for how in every if isinstance(how, QuantSpec)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Taken:
    """One operand of one product, and how it is quantized."""

    place: Place
    #: What the layer's quantizer gets: the operand in the view that axes refer to.
    x: Tensor
    operand: Operand
    setup: Setup
    draw: int

    @property
    def key(self) -> str:
        """``fprop.x`` and alike."""
        return f"{self.place.gemm}.{self.place.operand}"

    @property
    def faithful(self) -> bool:
        """Whether the layer's quantizer does what the recipe says, and nothing else."""
        return self.setup.quantizer is faithful

    def values(self) -> Tensor:
        """What the layer's quantizer gives back, in the view of ``x``."""
        return self.setup.quantizer(self.x, self.operand, self.place, self._generator())

    def grid(self) -> Grid:
        """Codes and scales, as the recipe has them."""
        return on_grid(self.x, self.operand, self._generator())

    def _generator(self) -> torch.Generator:
        """Random bytes of the look's own: neither the model's nor the layers' are touched.

        A new generator each time, so that values and codes of one look have the same bytes.
        """
        seed = (self.draw * len(_PLACES) + _PLACES.index(self.place)) % 2**63
        return torch.Generator(self.x.device).manual_seed(seed)


def taken(view: SiteView, setup: Setup | None) -> list[Taken]:
    """The products that take the site's tensor, and quantize it anew.

    Under ``setup``, else under the recipe in force. The tensor is cast as autocast casts it, which
    the dtype of the layer's output tells, and padded where the layer pads it by itself.
    """
    setup = setup or view.setup
    if setup is None or view.module is None or not view.tensor.numel():
        return []
    name = OPERANDS[view.site.role]
    kernel, tensor = operand_kernel(view.module, _cast(view), name)
    found = []
    for place in _PLACES:
        if place.operand != name:
            continue
        prepared = operand_of(tensor, place, kernel, setup.recipe)
        if prepared is not None:
            x, operand = prepared
            one = Taken(place=place, x=x, operand=operand, setup=setup, draw=view.draw)
            found.append(one)
    return found


def _cast(view: SiteView) -> Tensor:
    x, out = view.tensor, view.tensors.get(Role.OUTPUT)
    if out is None or not out.is_floating_point() or x.dtype == torch.float64:
        return x
    return x.to(out.dtype)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerOperand(Generic[S]):
    """A state for each product that takes a tensor, by ``fprop.x`` and alike."""

    parts: Mapping[str, S]

    @classmethod
    def of(cls, parts: Mapping[str, S]) -> Self | None:
        """None where no product quantizes the tensor."""
        return cls(parts=parts) if parts else None

    def merge(self, other: Self) -> Self:
        """What both saw; an operand that only one of them has stays as it is."""
        merged = dict(self.parts)
        for key, part in other.parts.items():
            merged[key] = merged[key].merge(part) if key in merged else part
        return type(self)(parts=merged)

    def to(self, device: torch.device | str) -> Self:
        return type(self)(parts={key: part.to(device) for key, part in self.parts.items()})

    def scalars(self) -> Mapping[str, Tensor]:
        """``n`` of all operands together, and each one's own under ``fprop.x.``."""
        found = {
            f"{key}.{name}": value
            for key, part in self.parts.items()
            for name, value in part.scalars().items()
        }
        total = torch.stack([found[f"{key}.n"].double() for key in self.parts]).sum()
        return {"n": total, **found}

    def arrays(self) -> Mapping[str, Tensor]:
        return {
            f"{key}.{name}": values
            for key, part in self.parts.items()
            for name, values in part.arrays().items()
        }
