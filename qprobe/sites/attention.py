"""Logits of attention, recomputed from queries and keys on a sample.

Fused attention never makes its logits. They are cheap for a few samples, heads and queries; keys
are never sampled, since a softmax needs them all.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.sites.projection import Projection

_CALL = (
    "query",
    "key",
    "value",
    "key_padding_mask",
    "need_weights",
    "attn_mask",
    "average_attn_weights",
    "is_causal",
)
_FUSED = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How many samples, heads and queries of an attention are looked at; None means all."""

    samples: int | None = 4
    heads: int | None = 1
    queries: int | None = 32

    def __post_init__(self) -> None:
        for name in ("samples", "heads", "queries"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise InputError(f"{name} of a sampling is {count}; take at least 1, or None.")


ALL = Sampling(samples=None, heads=None, queries=None)


class Logits(Protocol):
    """What can give the logits of a sample."""

    def logits(self, sampling: Sampling = ALL, turn: int = 0) -> Tensor:
        """``[samples, heads, queries, keys]``; what is masked is −inf."""


@dataclass(frozen=True, slots=True, eq=False)
class Materialized:
    """Logits that a plain attention has made, ``[..., heads, queries, keys]``."""

    whole: Tensor

    def logits(self, sampling: Sampling = ALL, turn: int = 0) -> Tensor:
        """The sample, in float32 at least.

        What was masked with half of the most negative number of the type, or more, is −inf.
        """
        whole = four(self.whole)
        samples, heads, queries, _ = whole.shape
        device = whole.device
        b = _pick(samples, sampling.samples, turn, device)[:, None, None]
        h = _pick(heads, sampling.heads, turn, device)[None, :, None]
        r = _pick(queries, sampling.queries, turn, device)[None, None, :]
        picked = whole[b, h, r]
        masked = picked <= torch.finfo(whole.dtype).min / 2
        dtype = torch.promote_types(whole.dtype, torch.float32)
        return picked.to(dtype).masked_fill(masked, -torch.inf)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """Part of an attention: some samples, heads and queries, and all keys these may see."""

    #: ``[samples, heads, queries, head_dim]`` and ``[samples, heads, keys, head_dim]``.
    q: Tensor
    k: Tensor
    #: ``[samples, heads, queries, keys]``: true where a key is attended to, or what is added.
    mask: Tensor | None
    scale: float
    #: Which samples and queries these are, on the device.
    samples: Tensor
    queries: Tensor
    #: Which heads these are, of how many.
    heads: tuple[int, ...]
    of_heads: int

    def products(self, q: Tensor, k: Tensor) -> Tensor:
        """``q·kᵀ·scale`` of these or of other values in their place, without the mask."""
        with torch.autocast(q.device.type, enabled=False):
            return q @ k.mT * self.scale


class Places(NamedTuple):
    """Which samples, heads and queries of an attention are looked at."""

    samples: tuple[int, ...]
    heads: tuple[int, ...]
    queries: tuple[int, ...]
    of_heads: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attended:
    """What logits are made of.

    ``q`` and ``k`` are ``[..., heads, tokens, head_dim]``; several heads of ``q`` may share one of
    ``k``. ``mask`` broadcasts against ``[..., heads, queries, keys]``: true where a key is attended
    to, or what is added. ``scale`` defaults to ``head_dim ** -0.5``. ``projections`` are the calls
    of linear layers that q and k are parts of, where these are known.
    """

    q: Tensor
    k: Tensor
    mask: Tensor | None = None
    scale: float | None = None
    causal: bool = False
    projections: tuple[Projection, Projection] | None = None
    #: The logits, where the model has made them itself; they say what was added to the product.
    made: Tensor | None = None
    #: What was computed of it, so that several probes compute it once.
    memo: dict[object, Any] = field(default_factory=dict, repr=False)

    def logits(self, sampling: Sampling = ALL, turn: int = 0) -> Tensor:
        """``q·kᵀ·scale + mask`` for a sample: ``[samples, heads, queries, keys]``.

        Float32, or float64 where q is. What is masked is −inf. ``turn`` moves the sample on, so
        that all heads and queries have their turn.

        >>> q = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
        >>> Attended(q=q, k=q, scale=1.0, causal=True).logits().tolist()
        [[[[1.0, -inf], [0.0, 4.0]]]]
        """
        if self.made is not None:
            return Materialized(self.made).logits(sampling, turn)
        sample = self.sample(sampling, turn)
        logits = sample.products(sample.q, sample.k)
        if sample.mask is None:
            return logits
        if sample.mask.dtype is torch.bool:
            return logits.masked_fill(~sample.mask, -torch.inf)
        return logits + sample.mask

    def places(self, sampling: Sampling = ALL, turn: int = 0) -> "Places":
        """Which samples, heads and queries a sample takes."""
        q = four(self.q)
        sizes = zip(q.shape[:3], (sampling.samples, sampling.heads, sampling.queries), strict=True)
        samples, heads, queries = (_numbers(*one, turn) for one in sizes)
        return Places(samples, heads, queries, of_heads=q.shape[1])

    def visible(self, places: "Places") -> Tensor | None:
        """The mask of a sample, ``[samples, heads, queries, keys]``; not where logits were made."""
        b, h, r = (torch.tensor(one, device=self.q.device) for one in places[:3])
        dtype = torch.promote_types(self.q.dtype, torch.float32)
        return self._mask(b[:, None, None], h[:, None], r, dtype)

    def sample(self, sampling: Sampling = ALL, turn: int = 0) -> Sample:
        """Queries and keys of a sample, float32, or float64 where q is."""
        q, k = four(self.q), four(self.k)
        wanted = (sampling.samples, sampling.heads, sampling.queries)
        sizes = list(zip(q.shape[:3], wanted, strict=True))
        samples, heads, queries = (_pick(*one, turn, q.device) for one in sizes)
        b, h, r = samples[:, None, None], heads[:, None], queries
        dtype = torch.promote_types(q.dtype, torch.float32)
        share = q.shape[1] // k.shape[1]
        numbers = _numbers(*sizes[1], turn)
        if len(numbers) == 1:
            # Views of the head first: what is left to gather is a fraction.
            (head,) = numbers
            picked = q[:, head : head + 1].index_select(0, samples).index_select(2, queries)
            keys = k[:, head // share : head // share + 1].index_select(0, samples)
        else:
            picked, keys = q[b, h, r], k[samples[:, None], heads // share]
        sample = Sample(
            q=picked.to(dtype),
            k=keys.to(dtype),
            mask=None if self.made is not None else self._mask(b, h, r, dtype),
            scale=q.shape[-1] ** -0.5 if self.scale is None else self.scale,
            samples=samples,
            queries=queries,
            heads=numbers,
            of_heads=q.shape[1],
        )
        if self.made is None:
            return sample
        added = self.logits(sampling, turn) - sample.products(sample.q, sample.k)
        return replace(sample, mask=added)

    def _mask(self, b: Tensor, h: Tensor, r: Tensor, dtype: torch.dtype) -> Tensor | None:
        """The mask of a sample, causal or not; of scores it is what is added."""
        keys = self.k.shape[-2]
        ahead = None
        if self.causal:
            ahead = torch.arange(keys, device=r.device) > r[:, None]
        if self.mask is None:
            if ahead is None:
                return None
            return (~ahead).expand(len(b), h.shape[0], len(r), keys)
        mask = four(self.mask.broadcast_to((*self.q.shape[:-1], keys)))[b, h, r]
        if mask.dtype is torch.bool:
            return mask if ahead is None else mask & ~ahead
        mask = mask.to(dtype)
        return mask if ahead is None else mask.masked_fill(ahead, -torch.inf)


def of_fused(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Attended:
    """From the arguments of ``F.scaled_dot_product_attention``."""
    given = dict(zip(_FUSED, args, strict=False)) | kwargs
    q, k = _alike(given["query"], given["key"])
    return Attended(
        q=q,
        k=k,
        mask=given.get("attn_mask"),
        scale=given.get("scale"),
        causal=given.get("is_causal", False),
    )


def of_product(
    scale: float | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Attended, Tensor]:
    """From the arguments of a ``ScaledDotProduct`` with ``scale``; the values beside it."""
    given = dict(zip(("q", "k", "v", "bias"), args, strict=False)) | kwargs
    q, k = _alike(given["q"], given["k"])
    return Attended(q=q, k=k, mask=given.get("bias"), scale=scale), given["v"]


def _alike(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Both for as many samples: what all share, as learned queries, is there for each."""
    own = -3 if max(q.dim(), k.dim()) > 3 else -2  # heads are shared by their number
    if q.shape[:own] == k.shape[:own]:
        return q, k
    batch = torch.broadcast_shapes(q.shape[:own], k.shape[:own])  # type: ignore[no-untyped-call]
    heads_q, heads_k = q.shape[own:-2], k.shape[own:-2]
    heads_q = heads_k if heads_q in ((), (1,)) else heads_q
    q = q.expand(*batch, *heads_q, *q.shape[-2:])
    return q, k.expand(*batch, *(heads_k or (1,) * len(heads_q)), *k.shape[-2:])


def inputs_of_multihead(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``nn.MultiheadAttention`` by name."""
    return dict(zip(_CALL, args, strict=False)) | kwargs


def of_multihead(
    module: nn.MultiheadAttention, given: dict[str, Any], sampling: Sampling, turn: int
) -> Attended:
    """Queries and keys of ``nn.MultiheadAttention``, projected anew for the sampled batch items."""
    query, key = (_batch_first(module, given[name]) for name in ("query", "key"))
    b = _pick(len(query), sampling.samples, turn, query.device)
    packed: Tensor | None = module.in_proj_weight
    bias: Tensor | None = module.in_proj_bias
    separate = (module.q_proj_weight, module.k_proj_weight)
    weights = separate if packed is None else packed.chunk(3)[:2]
    biases = (None, None) if bias is None else bias.chunk(3)[:2]
    q, k = (
        F.linear(x[b], weight, bias)
        for x, weight, bias in zip((query, key), weights, biases, strict=False)
    )
    calls = (
        Projection(input=query[b], weight=weights[0], bias=biases[0], dtype=q.dtype),
        Projection(input=key[b], weight=weights[1], bias=biases[1], dtype=k.dtype),
    )
    mask = _mask(module, given, b, (len(query), query.shape[1], key.shape[1]))
    if module.bias_k is not None:
        k, mask = torch.cat((k, module.bias_k.expand(len(k), -1, -1)), 1), _more_keys(mask)
    if module.add_zero_attn:
        k, mask = torch.cat((k, torch.zeros_like(k[:, :1])), 1), _more_keys(mask)
    heads = (module.num_heads, module.head_dim)
    q, k = (x.view(*x.shape[:-1], *heads).transpose(1, 2) for x in (q, k))
    return Attended(q=q, k=k, mask=mask, projections=calls)


def _batch_first(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    if x.dim() == 2:
        return x.unsqueeze(0)
    return x if module.batch_first else x.transpose(0, 1)


def _mask(
    module: nn.MultiheadAttention, given: dict[str, Any], b: Tensor, sizes: tuple[int, int, int]
) -> Tensor | None:
    """Both masks as one that is added: ``[samples, heads or 1, queries or 1, keys]``."""
    batch, queries, keys = sizes
    parts = []
    if (mask := given.get("attn_mask")) is not None:
        whole = mask if mask.dim() == 2 else mask.view(batch, module.num_heads, queries, keys)[b]
        parts.append(_added(whole))
    if (padding := given.get("key_padding_mask")) is not None:
        parts.append(_added(padding.view(batch, 1, 1, keys)[b]))
    if len(parts) == 2:
        return parts[0] + parts[1]
    return parts[0] if parts else None


def _added(mask: Tensor) -> Tensor:
    """True means *not attended to* in this module."""
    if mask.dtype is torch.bool:
        return torch.zeros_like(mask, dtype=torch.float32).masked_fill(mask, -torch.inf)
    return mask


def _more_keys(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else F.pad(mask, (0, 1))


def four(x: Tensor) -> Tensor:
    """Exactly one axis of samples and one of heads."""
    if x.dim() < 4:
        return x.unsqueeze(1) if x.dim() == 3 else x[None, None]
    return x.flatten(0, -4)


def _pick(total: int, wanted: int | None, turn: int, device: torch.device) -> Tensor:
    """``wanted`` of ``total`` indices, evenly spread and moved on by ``turn``."""
    count, step = _spread(total, wanted)
    first = turn % total if total else 0
    return torch.arange(first, first + count * step, step or 1, device=device) % total


@lru_cache(256)  # all attentions of a step have the same turn
def _numbers(total: int, wanted: int | None, turn: int) -> tuple[int, ...]:
    """The same on the host."""
    count, step = _spread(total, wanted)
    return tuple((one * step + turn) % total for one in range(count))


def _spread(total: int, wanted: int | None) -> tuple[int, int]:
    count = total if wanted is None else min(wanted, total)
    return count, total // count
