"""How far weights moved since the last look, and how many of their codes went back and forth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any, Self

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.probes.base import Field, SiteView
from qprobe.probes.composite import Composite
from qprobe.quant import catalogue
from qprobe.quant.layers import weight_kernel
from qprobe.quant.products import Setup, weight_operand
from qprobe.quant.quantize import operand_codes
from qprobe.quant.recipe import QuantRecipe
from qprobe.records.schema import Role
from qprobe.sites import Site
from qprobe.stats import Additive, CodeChanges, CodeLook, UpdateSize, look_again, update_size
from qprobe.stats.missing import ratio

#: Elements of a weight that are remembered: with two codes each, 12 kB.
LIMIT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval(Additive):
    """Pairs of looks, and the steps between them; int64."""

    looks: Tensor
    steps: Tensor

    def scalars(self) -> Mapping[str, Tensor]:
        return {"steps_between": ratio(self.steps, self.looks)}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightChanges(Composite):
    """What changed between looks; no codes where the weight is not quantized."""

    interval: Interval
    size: UpdateSize
    codes: CodeChanges | None

    def scalars(self) -> Mapping[str, Tensor]:
        """All of it; ``n`` counts compared elements and ``n_codes`` compared codes."""
        found = {**self.size.scalars(), **self.interval.scalars()}
        if self.codes is not None:
            codes = dict(self.codes.scalars())
            found["n_codes"] = codes.pop("n")
            found |= codes
        return found


class UpdateHealth:
    """Relative update of weights, and flips and oscillation of their codes, since the last look.

    Of a weight with more than ``limit`` elements an even sample of at most so many is remembered,
    always the same ones; codes are made from the whole weight, as fprop quantizes it. A first look,
    and the first under another recipe, has nothing to compare with. Of a sharded weight it sees
    this process's shard, whose largest magnitude then scales the codes.
    """

    name = "update_health"
    needs: frozenset[Role | Field] = frozenset()

    def __init__(self, recipe: str | QuantRecipe | None = None, limit: int = LIMIT) -> None:
        if limit < 1:
            raise InputError(f"at least one element of a weight is remembered, got {limit}.")
        named = catalogue.recipe(recipe) if isinstance(recipe, str) else recipe
        self._asked = named and Setup(recipe=named)
        self._limit = limit

    def selects(self, site: Site) -> bool:
        return site.role is Role.WEIGHT

    def observe(self, view: SiteView) -> WeightChanges | None:
        weight, setup = view.tensor, self._asked or view.setup
        if not weight.numel():
            return None
        stride = _stride(weight, self._limit)
        now = weight.detach().reshape(-1)[::stride].clone()
        codes = _codes(view, weight, setup)
        codes = None if codes is None else codes[::stride].clone()
        recipe = "" if setup is None else _digest(setup.recipe)
        last, memory = _Look.of(view.memory, now.device), view.memory
        if last is None or last.recipe != recipe or last.weight.shape != now.shape:
            look = None if codes is None else CodeLook.first(codes)
            _Look(view.step, recipe, now, look).keep(memory)
            return None
        changes = None
        look = last.codes
        if look is not None and codes is not None:
            look, changes = look_again(look, codes)
        _Look(view.step, recipe, now, look).keep(memory)
        return WeightChanges(
            interval=_interval(view.step - last.step, now.device),
            size=update_size(last.weight, now),
            codes=changes,
        )


@dataclass(frozen=True, slots=True)
class _Look:
    """What is remembered of a weight."""

    step: int
    recipe: str
    weight: Tensor
    codes: CodeLook | None

    @classmethod
    def of(cls, memory: Mapping[str, Any], device: torch.device) -> Self | None:
        if not memory:
            return None
        codes = None
        if memory["codes"] is not None:
            codes = CodeLook(codes=memory["codes"].to(device), left=memory["left"].to(device))
        return cls(memory["step"], memory["recipe"], memory["weight"].to(device), codes)

    def keep(self, memory: dict[str, Any]) -> None:
        """As plain data, which can be saved."""
        codes, left = (None, None) if self.codes is None else (self.codes.codes, self.codes.left)
        memory |= {"step": self.step, "recipe": self.recipe, "weight": self.weight}
        memory |= {"codes": codes, "left": left}


@cache
def _digest(recipe: QuantRecipe) -> str:
    """A short text that another recipe, also one of the same name, does not have."""
    return blake2b(repr(recipe).encode(), digest_size=12).hexdigest()


def _stride(weight: Tensor, limit: int) -> int:
    """One element in so many, with no factor in common with a row, so that all columns are seen."""
    stride = -(-weight.numel() // limit)
    row = weight[0].numel() if weight.dim() > 1 else 1
    while math.gcd(stride, row) > 1:
        stride += 1
    return stride


def _codes(view: SiteView, weight: Tensor, setup: Setup | None) -> Tensor | None:
    if setup is None or view.module is None:
        return None
    kernel = weight_kernel(view.module, weight)
    found = None if kernel is None else weight_operand(weight, kernel, setup)
    return None if found is None else operand_codes(*found)


def _interval(steps: int, device: torch.device) -> Interval:
    one = torch.ones((), dtype=torch.int64, device=device)
    return Interval(looks=one, steps=torch.full_like(one, steps))
