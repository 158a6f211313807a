"""Logits of one attention before and after a recipe, on a sample, for the probes of attention."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from qprobe.native import Projecting
from qprobe.probes.attended_native import Made, Plan, Seen, plan_of, see, usable
from qprobe.probes.base import SiteView
from qprobe.quant import catalogue
from qprobe.quant.formats import IntFormat
from qprobe.quant.products import LinearKernel, Products, Setup, first_setup, without_autocast
from qprobe.quant.products import Role as Place
from qprobe.quant.quantize import Operand
from qprobe.quant.recipe import Gemm, QuantRecipe
from qprobe.quant.spec import Granularity, QuantSpec
from qprobe.sites import Site
from qprobe.sites.attention import Attended, Places, Sample, Sampling
from qprobe.sites.projection import Projection, Rows


@cache
def asked(recipe: str | QuantRecipe | None) -> Setup | None:
    """A recipe that was asked for, by name or itself, as a setup; None where none was.

    The same setup for the same recipe, so that probes that ask for one recipe share what they find.
    """
    if recipe is None:
        return None
    return Setup(recipe=catalogue.recipe(recipe) if isinstance(recipe, str) else recipe)


def in_force(view: SiteView) -> Setup | None:
    """The setup of the attention itself, else of the layers that made q and k, else beside it."""
    calls = None if view.attended is None else view.attended.projections
    return first_setup((view.module, *(calls or ()))) or view.setup


def operands_known(site: Site) -> bool:
    """Whether queries and keys of an attention can be had beside its logits.

    Where a module multiplies and normalises by itself, they can if the product is only scaled by
    numbers, added to and masked in between; a probe that finds it otherwise has nothing to see.

    >>> from qprobe.records.schema import Role
    >>> operands_known(Site("attn/sdpa.0", Role.ATTN_LOGITS, "attention"))
    True
    >>> operands_known(Site("attn/matmul.0", Role.ATTN_LOGITS, "attention"))
    True
    >>> operands_known(Site("attn/softmax.0", Role.ATTN_LOGITS, "attention"))
    False
    """
    _, inside, call = site.path.rpartition("/")
    return not inside or call.startswith(("sdpa.", "matmul."))


@lru_cache(256)  # asked by each probe of each attention at each look
def compares(setup: Setup | None) -> bool:
    """Whether logits under a recipe are others than in high precision."""
    if setup is None:
        return False
    return products_of(setup.recipe).quantizes or setup.recipe.fprop.quantizes


def products_of(recipe: QuantRecipe) -> Gemm:
    """How a recipe takes q and k: as it says, else in the format that activations have in fprop.

    Blocks lie along the head's channels. Integers have one scale a tensor or one a token.

    >>> str(products_of(catalogue.recipe("nvfp4-2d-rht-sr")).a)
    'nvfp4/1d'
    >>> str(products_of(catalogue.recipe("int4-adaptive")).a)
    'int4/token'
    """
    if recipe.attention is not None:
        return recipe.attention
    how = recipe.fprop.a
    if not isinstance(how, QuantSpec):
        return Gemm()
    if isinstance(how.format, IntFormat):
        whole = how.granularity is Granularity.TENSOR
        granularity = Granularity.TENSOR if whole else Granularity.TOKEN
        how = QuantSpec(format=how.format, granularity=granularity)
    return Gemm(a=how, b=how)


#: Input, weight and bias of a call.
_Taken = tuple[Tensor, Tensor, Tensor | None]


@lru_cache(256)
def _plan_of(setup: Setup) -> Plan | None:
    return plan_of(products_of(setup.recipe), setup)


_Computed = TypeVar("_Computed")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """A sample of one attention, and the recipe it is seen under."""

    attended: Attended
    sampling: Sampling
    draw: int
    setup: Setup
    #: Whether the model itself runs under the recipe.
    running: bool
    made: dict[str, Any] = field(default_factory=dict)
    #: Of each call, and whether as the recipe takes them: what it multiplies.
    operands: dict[tuple[int, bool], _Taken] = field(default_factory=dict)

    @classmethod
    def at(cls, view: SiteView, wanted: Setup | None, sampling: Sampling) -> Self | None:
        """What to look at; None without queries and keys, or where nothing is quantized."""
        setup = wanted or in_force(view)
        attended = view.attended
        if setup is None or attended is None or not attended.q.numel() or not attended.k.numel():
            return None
        if not compares(setup):
            return None
        key = (cls, setup, sampling, view.draw)
        if key not in attended.memo:
            # Without the memo: a cycle would keep the step's graph until the collector comes by.
            attended.memo[key] = cls(
                attended=replace(attended, memo={}),
                sampling=sampling,
                draw=view.draw,
                setup=setup,
                running=wanted is None,
            )
        look: Self = attended.memo[key]
        return look

    @property
    def places(self) -> Places:
        """Where the sample is."""
        return self._once("places", lambda: self.attended.places(self.sampling, self.draw))

    @property
    def sample(self) -> Sample:
        """The sample itself."""
        return self._once("sample", lambda: self.attended.sample(self.sampling, self.draw))

    def seen(self, *, projected: bool) -> Seen | None:
        """Errors of logits and of probabilities, all at once where the kernel can; else None.

        ``projected`` asks for those of projections too, as far as these are known.
        """
        if "all" in self.made or projected:
            return self._once("all", lambda: self._seen(projected=True))
        return self._once("unprojected", lambda: self._seen(projected=False))

    def _seen(self, *, projected: bool) -> Seen | None:
        plan = _plan_of(self.setup)
        if plan is None or not usable(self.attended, self.places):
            return None
        layers = self._layers() if projected else None
        anew = Projecting.NEITHER if layers is None else self._anew(layers[0][0], layers[1][0])
        if layers is None or not anew:
            return see(self.attended, self.places, plan, None)
        (of_q, (of_head_q,)), (of_k, (of_head_k,)) = layers
        made = Made(q=of_q, k=of_k, rows_q=of_head_q, rows_k=of_head_k, anew=anew)
        return see(self.attended, self.places, plan, made) if made.readable else None

    def reference(self) -> Tensor:
        """``q·kᵀ·scale`` of the queries and keys that the attention got."""
        return self._once("reference", lambda: self.sample.products(self.sample.q, self.sample.k))

    def quantized(self) -> Tensor:
        """``Q(q)·Q(k)ᵀ·scale`` of the same."""
        return self._once("quantized", self._quantized)

    def _quantized(self) -> Tensor:
        q = self._take(self.sample.q, self.attended.q, "q")
        return self.sample.products(q, self._take(self.sample.k, self.attended.k, "k"))

    def _once(self, name: str, compute: Callable[[], _Computed]) -> _Computed:
        """Computed for the first probe that asks."""
        if name not in self.made:
            self.made[name] = compute()
        found: _Computed = self.made[name]
        return found

    def probabilities(self, p: Tensor) -> Tensor:
        """Probabilities as the product with the values sees them."""
        return p if self.setup.recipe.attention is None else self._take(p, p, "p")

    def projected(self) -> tuple[Tensor, Tensor] | None:
        """Logits of projections in high precision and under the recipe, for the same input.

        None unless queries and keys are plain parts of what linear layers returned.
        """
        layers = self._layers()
        if layers is None:
            return None
        calls = (layers[0][0], layers[1][0])
        anew = self._anew(*calls)
        if not anew:
            return None
        heads = [rows for _, rows in layers]
        before, after = (
            self._projected(calls, heads, quantized=one is Projecting.QUANTIZED)
            if one in anew
            else self.reference()
            for one in (Projecting.PLAIN, Projecting.QUANTIZED)
        )
        return before, after

    def _anew(self, of_q: Projection, of_k: Projection) -> Projecting:
        """What is projected anew, beside the queries and keys that there are.

        These are the layers' own: in high precision, or under the recipe where it is in force.
        """
        quantized = [call.setup is not None for call in (of_q, of_k)]
        if self.running:
            return Projecting.PLAIN if all(quantized) else Projecting.NEITHER
        return Projecting.QUANTIZED | (Projecting.PLAIN if any(quantized) else Projecting.NEITHER)

    def _layers(self) -> tuple[tuple[Projection, list[Rows]], ...] | None:
        """The calls that made queries and keys, and of each the rows that make the heads."""
        calls, places = self.attended.projections, self.places
        if calls is None:
            return None
        share = places.of_heads // _heads(self.attended.k)
        rows_q = [calls[0].rows(self.attended.q, head) for head in places.heads]
        rows_k = [calls[1].rows(self.attended.k, head // share) for head in places.heads]
        if None in rows_q or None in rows_k:
            return None
        heads = [[one for one in rows if one] for rows in (rows_q, rows_k)]
        return tuple(zip(calls, heads, strict=True))

    def _projected(
        self, calls: tuple[Projection, Projection], rows: list[list[Rows]], *, quantized: bool
    ) -> Tensor:
        """The logits of some heads, projected anew; ``quantized`` as the recipe takes operands."""
        parts = []
        for call, heads, tokens in zip(calls, rows, (self.sample.queries, None), strict=True):
            x, w, bias = self._operands(call, quantized=quantized)
            made = _heads_of(_of(x, tokens), w, bias, heads, call.dtype)
            parts.append(made.to(self.sample.q.dtype))
        return self.sample.products(*parts)

    def _operands(self, call: Projection, *, quantized: bool) -> _Taken:
        """What a call multiplies and adds: once where q and k have one call."""
        key, memo = (id(call), quantized), self.operands
        if key not in memo:
            x, w, bias = call.taken(self.sample.samples)
            if quantized:
                x, w = Products(x=x, w=w, kernel=LinearKernel(w), setup=self.setup).operands()
            wide = torch.promote_types(x.dtype, torch.float32)
            memo[key] = x.to(wide), w.to(wide), bias
        return memo[key]

    def _take(self, x: Tensor, whole: Tensor, operand: str) -> Tensor:
        """An operand of the sample as its product sees it."""
        gemm = products_of(self.setup.recipe)
        how = gemm.a if operand in ("q", "p") else gemm.b
        if not isinstance(how, QuantSpec):
            return x
        plan = Operand(axes=-1, spec=how, hadamard=gemm.hadamard)
        rows = x.flatten(0, -2)
        shared = how.granularity is Granularity.TENSOR
        if shared:
            # One scale for the whole tensor, of which this is a sample: its largest comes along.
            rows = torch.cat([rows, _largest(whole, rows)])
        place = Place("attention", operand)
        taken = self.setup.quantizer(rows, plan, place, self.setup.generator)
        return (taken[:-1] if shared else taken).view_as(x)


def _of(x: Tensor, tokens: Tensor | None) -> Tensor:
    return x if tokens is None else x.index_select(1, tokens)


def _heads(k: Tensor) -> int:
    return k.shape[-3] if k.dim() > 2 else 1


def _largest(whole: Tensor, rows: Tensor) -> Tensor:
    """A row that holds the largest magnitude of the whole tensor."""
    row = torch.zeros_like(rows[:1])
    row[0, 0] = torch.maximum(whole.amax(), -whole.amin())
    return row


def _heads_of(
    x: Tensor, w: Tensor, bias: Tensor | None, rows: list[Rows], dtype: torch.dtype
) -> Tensor:
    """``x·wᵀ + bias`` of the rows of each head, ``[samples, heads, tokens, head_dim]``.

    Rounded to ``dtype`` as a layer's product is, and once more with the bias.
    """
    with without_autocast(x.device):
        parts = [F.linear(x, one.of(w)).to(dtype) for one in rows]
        if bias is not None:
            parts = [part + one.of(bias) for part, one in zip(parts, rows, strict=True)]
    return torch.stack(parts, 1)
