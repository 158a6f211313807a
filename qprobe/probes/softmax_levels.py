"""What quantized logits make of attention's probabilities, head by head."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from qprobe.probes.attended import Look, asked, compares, operands_known
from qprobe.probes.base import Field, SiteView
from qprobe.probes.composite import Composite
from qprobe.quant.products import Setup
from qprobe.quant.recipe import QuantRecipe
from qprobe.records.schema import Role
from qprobe.sites import Sampling, Site
from qprobe.stats import (
    Levels,
    SoftmaxError,
    probabilities,
    softmax_change,
    softmax_error,
    softmax_levels,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbabilitiesUnderRecipe(Composite):
    """How far probabilities moved, and how many levels are left of them."""

    moved: SoftmaxError
    levels: Levels

    def scalars(self) -> Mapping[str, Tensor]:
        """Both; ``n`` counts rows and ``n_levels`` probabilities."""
        found = dict(self.levels.scalars())
        found["n_levels"] = found.pop("n")
        return {**self.moved.scalars(), **found}

    def arrays(self) -> dict[str, Tensor]:
        """Histograms of levels, all heads together, ``[bins]``."""
        together = self.levels.pooled().arrays()
        return {key: counts[:, 0] for key, counts in together.items()}


class SoftmaxLevels:
    """Effective levels, entropy change, flip rate and total variation of attention probabilities.

    Compares ``softmax(q·kᵀ·scale + mask)`` with the same of quantized queries and keys, and, where
    the recipe quantizes attention's products, with the probabilities as the second of them takes
    them. Per head and for all of them; a state takes 5 kB for each head that it saw, twice that
    where a bin has more than 32,767 counts.

    The recipe is the one in force, or any that is asked for, as in
    :class:`~qprobe.probes.attention_logits.AttentionLogits`.
    """

    name = "softmax_levels"
    needs: frozenset[Role | Field] = frozenset()

    def __init__(
        self, recipe: str | QuantRecipe | None = None, sampling: Sampling | None = None
    ) -> None:
        self._asked = asked(recipe)
        self._sampling = sampling or Sampling()

    def selects(self, site: Site) -> bool:
        return site.role is Role.ATTN_PROBS and operands_known(site)

    def compares(self, site: Site, setup: Setup | None) -> bool:
        return compares(self._asked or setup)

    def observe(self, view: SiteView) -> ProbabilitiesUnderRecipe | None:
        look = Look.at(view, self._asked, self._sampling)
        if look is None:
            return None
        moved, levels = _change(look)
        placed = look.places.heads, look.places.of_heads
        return ProbabilitiesUnderRecipe(moved=moved.at(*placed), levels=levels.at(*placed))


def _change(look: Look) -> tuple[SoftmaxError, Levels]:
    """From the logits, unless the recipe quantizes the probabilities themselves."""
    seen = look.seen(projected=False)
    if seen is not None:
        return seen.moved, seen.levels
    mask = look.sample.mask
    if look.setup.recipe.attention is None:
        return softmax_change(look.reference(), look.quantized(), mask)
    before = probabilities(look.reference(), mask)
    after = look.probabilities(probabilities(look.quantized(), mask))
    return (
        softmax_error(before, after, mask, complete=mask is None),
        softmax_levels(before, after, mask),
    )
