"""What quantization does to one small map of an attention, to look at."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.probes.attended import Look, asked, compares, operands_known
from qprobe.probes.base import Field, SiteView
from qprobe.quant.products import Setup
from qprobe.quant.recipe import QuantRecipe
from qprobe.records.schema import Role
from qprobe.sites import Sampling, Site
from qprobe.stats import probabilities
from qprobe.stats.attention import visible_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Maps:
    """One map of one head of one sample, ``[queries, keys]``, float16.

    Two maps of different samples have no mean that would be a map of anything, so of two the first
    is kept: the first call of a window, and rank 0.
    """

    head: int
    reference: Tensor
    #: Quantized minus reference, which float16 holds more closely than the quantized map.
    change: Tensor

    def merge(self, other: Self) -> Self:
        """The first of the two."""
        return self

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(
            head=self.head, reference=self.reference.to(device), change=self.change.to(device)
        )

    def scalars(self) -> Mapping[str, Tensor]:
        """How many entries the map has."""
        return {"n": torch.tensor(self.reference.numel())}

    def arrays(self) -> Mapping[str, Tensor]:
        """Both, named after the head."""
        return {
            f"head{self.head}.reference": self.reference,
            f"head{self.head}.change": self.change,
        }


class AttentionMaps:
    """Logits and probabilities of one head of one sample, and what the recipe changes in them.

    At most ``tokens`` queries and keys, evenly spread and in their order, so 16 kB a site. Heads
    and samples take turns. From logits the mean of each row is taken, which softmax ignores;
    hidden entries are −inf there and zero among probabilities, and their change is zero.
    Probabilities are those over all keys.

    The recipe is the one in force, or any that is asked for, as in
    :class:`~qprobe.probes.attention_logits.AttentionLogits`.
    """

    name = "attention_maps"
    needs: frozenset[Role | Field] = frozenset()
    #: Pictures to look at: rarely is enough.
    every = 100

    def __init__(self, recipe: str | QuantRecipe | None = None, tokens: int = 64) -> None:
        if not 1 <= tokens <= 256:
            raise InputError(f"a map of attention takes 1 to 256 tokens, got {tokens}.")
        self._asked = asked(recipe)
        self._tokens = tokens

    def selects(self, site: Site) -> bool:
        return site.role in (Role.ATTN_LOGITS, Role.ATTN_PROBS) and operands_known(site)

    def compares(self, site: Site, setup: Setup | None) -> bool:
        return compares(self._asked or setup)

    def observe(self, view: SiteView) -> Maps | None:
        sampling = Sampling(samples=1, heads=1, queries=self._tokens)
        look = Look.at(view, self._asked, sampling)
        if look is None:
            return None
        sample, (before, after) = look.sample, (look.reference(), look.quantized())
        if view.site.role is Role.ATTN_PROBS:
            before, after = (
                probabilities(one, sample.mask).to(sample.q.dtype) for one in (before, after)
            )
            after = look.probabilities(after)
        else:
            visible = visible_keys(sample.mask, before)
            before, after = (_centred(one, visible) for one in (before, after))
        change = torch.where(before == after, 0.0, after - before)  # −inf stays −inf
        return Maps(
            head=sample.heads[0],
            reference=self._shown(before, sample.queries),
            change=self._shown(change, sample.queries),
        )

    def _shown(self, values: Tensor, queries: Tensor) -> Tensor:
        """``[1, 1, queries, keys]`` as a map: a sample has its queries in the order of a turn."""
        keys = values.shape[-1]
        count = min(self._tokens, keys)
        across = torch.arange(count, device=values.device) * (keys // count)
        ordered = values[0, 0].index_select(0, queries.argsort())
        return ordered.index_select(1, across).to(torch.float16)


def _centred(logits: Tensor, visible: Tensor) -> Tensor:
    """Less the mean of what each row sees; the rest is −inf.

    >>> _centred(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False])).tolist()
    [-1.0, 1.0, -inf]
    """
    seen = logits.masked_fill(~visible, 0.0).sum(-1, keepdim=True)
    mean = seen / visible.sum(-1, keepdim=True).clamp_min(1)
    return (logits - mean).masked_fill(~visible, -torch.inf)
