"""How wrong quantization makes the logits of attention, head by head."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qprobe.probes.attended import Look, asked, compares, operands_known
from qprobe.probes.base import Field, SiteView
from qprobe.probes.composite import Composite
from qprobe.quant.products import Setup
from qprobe.quant.recipe import QuantRecipe
from qprobe.records.schema import Role
from qprobe.sites import Sampling, Site
from qprobe.stats import Additive, LogitError, logit_error
from qprobe.stats.missing import ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks(Additive):
    """How often an attention was looked at, and how often its projections were known."""

    n: Tensor
    projected: Tensor

    def scalars(self) -> Mapping[str, Tensor]:
        return {"proj_available": ratio(self.projected, self.n)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsUnderRecipe(Composite):
    """Errors of logits by quantized queries and keys, and by quantized projections."""

    looks: Looks
    qk: LogitError
    #: None where the layers that made queries and keys are not known.
    proj: LogitError | None

    def scalars(self) -> Mapping[str, Tensor]:
        """Both under keys of their own, ``n`` counting logits of the former."""
        found = {**self.looks.scalars(), **_keyed(self.qk.scalars(), "qk")}
        found["n"] = found.pop("n_qk")
        return found if self.proj is None else found | _keyed(self.proj.scalars(), "proj")


def _keyed(scalars: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    names = {
        "n": f"n_{path}",
        "snr_db": f"snr_{path}_db",
        "error_nats": f"error_{path}_nats",
        "logit_std": "logit_std" if path == "qk" else f"logit_std_{path}",
    }
    keyed = {}
    for key, value in scalars.items():
        head, dot, stem = key.rpartition(".")
        keyed[f"{head}{dot}{names[stem]}"] = value
    return keyed


class AttentionLogits:
    """Signal-to-noise ratio of logits, and their error in nats, per head and for all of them.

    ``qk`` compares ``Q(q)·Q(k)ᵀ`` with ``q·kᵀ`` for the queries and keys that the attention got.
    ``proj`` compares logits of quantized projections with those of the original weights, for one
    input; it takes queries and keys that are plain parts of what linear layers returned, and
    ``proj_available`` says for which share of the looks they were. Row means are removed, hidden
    entries left out.

    The recipe is the one in force, or any that is asked for. A recipe that says nothing of
    attention is taken to quantize q and k as fprop quantizes activations. Heads and queries take
    turns. NVFP4's tensor scale is that of the sample.
    """

    name = "attention_logits"
    needs: frozenset[Role | Field] = frozenset()

    def __init__(
        self, recipe: str | QuantRecipe | None = None, sampling: Sampling | None = None
    ) -> None:
        self._asked = asked(recipe)
        self._sampling = sampling or Sampling()

    def selects(self, site: Site) -> bool:
        return site.role is Role.ATTN_LOGITS and operands_known(site)

    def compares(self, site: Site, setup: Setup | None) -> bool:
        return compares(self._asked or setup)

    def observe(self, view: SiteView) -> LogitsUnderRecipe | None:
        look = Look.at(view, self._asked, self._sampling)
        if look is None:
            return None
        places, (qk, proj) = look.places, _errors(look)
        placed = places.heads, places.of_heads
        one = torch.ones((), dtype=torch.int64, device=look.attended.q.device)
        return LogitsUnderRecipe(
            looks=Looks(n=one, projected=torch.zeros_like(one) if proj is None else one),
            qk=qk.at(*placed),
            proj=None if proj is None else proj.at(*placed),
        )


def _errors(look: Look) -> tuple[LogitError, LogitError | None]:
    """By quantized queries and keys, and by quantized projections."""
    seen = look.seen(projected=True)
    if seen is not None:
        return seen.qk, seen.proj
    mask = look.sample.mask
    qk = logit_error(look.reference(), look.quantized(), mask, complete=mask is None)
    projected = look.projected()
    if projected is None:
        return qk, None
    return qk, logit_error(*projected, mask, complete=mask is None)
