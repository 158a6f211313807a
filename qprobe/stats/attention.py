"""What quantization does to attention, head by head.

Logits and probabilities are ``[..., heads, queries, keys]`` before and after quantization, of the
same layer and the same input. A mask broadcasts against them: a boolean one is true where a query
may see a key, an additive one hides a key with −50 or less, whose weight e⁻⁵⁰ no float32 keeps
beside 1. Hidden entries take part in nothing, and a query that sees no key is missing.

On a CPU a C kernel (:mod:`qprobe.native`) reads logits, elsewhere and where they are not finite
PyTorch, with the same counts; sums agree to about 1e-12 of their value, and a probability that lies
on the edge of a bin of :func:`softmax_levels` to within 1e-12 may be counted in the bin beside.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import starmap

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.stats import attention_native, compensated, pair
from qprobe.stats.additive import count, narrow
from qprobe.stats.discretization import BINS, Levels, level_histograms
from qprobe.stats.heads import PerHead
from qprobe.stats.missing import decibels, ratio

#: An additive mask of this or less hides its key.
HIDDEN = -50.0
#: Entries worked on at a time.
_PIECE = 1 << 19


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitError(PerHead):
    """Signal and error of logits with row means removed. Fields are a value a head."""

    #: Visible entries and rows with a visible entry, int64 ``[heads]``.
    entries: Tensor
    rows: Tensor
    #: Sums of squares about the row means, ``[2, heads]``: of the logits and of their change.
    signal: Tensor
    noise: Tensor

    def seen(self) -> Tensor:
        return self.entries

    def snr_db(self) -> Tensor:
        """Logit SNR a head, ``10·log10(signal / noise)``; +inf without error, NaN if missing."""
        return decibels(compensated.total(self.signal), compensated.total(self.noise))

    def error_nats(self) -> Tensor:
        """Standard deviation of the centred logit error a head, in nats; NaN if missing."""
        return ratio(compensated.total(self.noise), self.entries - self.rows).sqrt()

    def logit_std(self) -> Tensor:
        """Standard deviation of the centred logits a head; NaN if missing."""
        return ratio(compensated.total(self.signal), self.entries - self.rows).sqrt()

    def values(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        free = self.entries > self.rows
        silent = (compensated.total(self.signal) == 0) & (compensated.total(self.noise) == 0)
        return {
            "snr_db": (self.snr_db(), free & ~silent),
            "error_nats": (self.error_nats(), free),
            "logit_std": (self.logit_std(), free),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftmaxError(PerHead):
    """How far probabilities moved, row by row. Fields are a value a head."""

    #: Rows with a visible key; of these, rows with one largest probability; of these, flipped.
    rows: Tensor
    decided: Tensor
    flipped: Tensor
    #: Sums over rows ``[2, heads]``: entropy after less before, and total variation.
    entropy_change: Tensor
    total_variation: Tensor

    def seen(self) -> Tensor:
        return self.rows

    def values(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        some = self.rows > 0
        change = ratio(compensated.total(self.entropy_change), self.rows)
        variation = ratio(compensated.total(self.total_variation), self.rows)
        return {
            "entropy_change_nats": (change, some),
            "total_variation": (variation, some),
            "flip_rate": (ratio(self.flipped, self.decided), self.decided > 0),
        }


def logit_error(
    logits: Tensor, quantized: Tensor, mask: Tensor | None = None, *, complete: bool = False
) -> LogitError:
    """Logit SNR and logit error in nats.

    With rows r (one query of one head), visible keys j and c(·) removing each row's mean::

        SNR = Σ c(L)² / Σ c(L̂ − L)²        error = √(Σ c(L̂ − L)² / (entries − rows))

    Softmax ignores a row's mean, so it is removed first. The error is what softmax feels; the SNR
    also depends on how far the logits spread. Squared errors are unbiased (one degree of freedom a
    row is spent on its mean), the root is low by a share of 1/(4·(entries − rows)). Entries where
    ``logits`` are −inf count as hidden; NaN and infinity elsewhere give NaN.

    ``complete`` promises that nothing is hidden, which is faster; −inf then gives NaN too.

    ``logits`` are scaled products q·kᵀ, without the mask added; of an additive mask only what it
    hides is used, so that a position bias is no part of the signal.

    Reference: Lin et al. 2016, "Fixed point quantization of deep convolutional networks", for the
    SQNR, here of row-centred logits.

    >>> logits = torch.tensor([[[1.0, -1.0], [5.0, 5.0]]])
    >>> found = logit_error(logits, torch.tensor([[[1.1, -1.1], [7.0, 7.0]]])).scalars()
    >>> round(found["snr_db"].item(), 3), round(found["error_nats"].item(), 3)
    (20.0, 0.1)
    """
    _check(logits, quantized, "logits before and after quantization")
    if attention_native.usable(logits, quantized):
        visible = None if mask is None else visible_keys(mask, logits)
        found = attention_native.logit_error(logits, quantized, visible)
        if found is not None:
            (entries, rows), (signal, noise) = found
            return LogitError(entries=entries, rows=rows, signal=signal, noise=noise)
    measure = _logit_error_of_all if complete and logits.numel() else _logit_error
    return reduce(LogitError.merge, starmap(measure, _batches(logits, quantized, mask)))


def _logit_error_of_all(x: Tensor, y: Tensor, _: Tensor) -> LogitError:
    """The same where nothing is hidden."""
    samples, heads, queries, keys = x.shape
    entries = torch.full((heads,), samples * queries * keys, dtype=torch.int64, device=x.device)
    rows = torch.full_like(entries, samples * queries)
    # Less its largest first, as in _centred.
    signal, noise = (
        (kept - kept.mean(-1, keepdim=True)).square().sum((0, 2, 3))
        for kept in (z - z.amax(-1, keepdim=True) for z in (x, y - x))
    )
    return LogitError(
        entries=entries,
        rows=rows,
        signal=compensated.start(signal),
        noise=compensated.start(noise),
    )


def _logit_error(x: Tensor, y: Tensor, visible: Tensor) -> LogitError:
    seen = visible & (x != -torch.inf)
    signal, noise = (_centred(z, seen).square().sum((0, 2, 3)) for z in (x, y - x))
    return LogitError(
        entries=count(seen, (0, 2, 3)),
        rows=count(seen.any(-1), (0, 2)),
        signal=compensated.start(signal),
        noise=compensated.start(noise),
    )


def softmax_error(
    p: Tensor, quantized: Tensor, mask: Tensor | None = None, *, complete: bool = False
) -> SoftmaxError:
    """Entropy change, flip rate and total variation of attention probabilities.

    Means over the rows (queries) that see a key, with P, P̂ a row before and after::

        entropy change   H(P̂) − H(P),  H(P) = −Σ p ln p, in nats: negative where it sharpens
        total variation  ½ Σ |P − P̂|
        flip rate        P's largest key is no longer among P̂'s largest

    Rows where several keys share P's largest value have no argmax and are left out of the flip
    rate. Each is an exact mean, without bias; probabilities are taken as they are, not normalised.
    ``complete`` promises that nothing is hidden, which is faster.

    Reference: Shannon 1948, "A mathematical theory of communication", sec. 6.

    >>> p = torch.tensor([[[0.75, 0.25], [0.5, 0.5]]])
    >>> found = softmax_error(p, torch.tensor([[[0.25, 0.75], [1.0, 0.0]]])).scalars()
    >>> found["flip_rate"].item(), found["total_variation"].item()
    (1.0, 0.5)
    >>> round(found["entropy_change_nats"].item(), 4)  # (0 − ln 2) / 2
    -0.3466
    """
    _check(p, quantized, "probabilities before and after quantization")
    measure = _softmax_error_of_all if complete and p.numel() else _softmax_error
    return reduce(SoftmaxError.merge, starmap(measure, _batches(p, quantized, mask)))


def _softmax_error_of_all(x: Tensor, y: Tensor, _: Tensor) -> SoftmaxError:
    """The same where nothing is hidden."""
    rows = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
    return _moved(x, y, rows, (x, y))


def _softmax_error(x: Tensor, y: Tensor, visible: Tensor) -> SoftmaxError:
    hidden = ~visible
    before, after = (p.masked_fill(hidden, 0.0) for p in (x, y))
    ranked = (before.masked_fill(hidden, -1.0), after.masked_fill(hidden, -1.0))
    return _moved(before, after, visible.any(-1), ranked)


def _moved(
    before: Tensor, after: Tensor, rows: Tensor, ranked: tuple[Tensor, Tensor]
) -> SoftmaxError:
    """``rows`` that see a key, and in ``ranked`` the probabilities with hidden ones below all."""
    change = _entropy(after) - _entropy(before)
    variation = (after - before).abs().sum(-1) / 2
    top, at = ranked[0].max(-1, keepdim=True)
    decided = rows & ((ranked[0] == top).sum(-1) == 1)
    flipped = decided & (after.gather(-1, at).squeeze(-1) < ranked[1].amax(-1))
    return SoftmaxError(
        rows=count(rows, (0, 2)),
        decided=count(decided, (0, 2)),
        flipped=count(flipped, (0, 2)),
        entropy_change=compensated.start(change.sum((0, 2))),
        total_variation=compensated.start(variation.sum((0, 2))),
    )


def _entropy(p: Tensor) -> Tensor:
    """``−Σ p ln p`` of each row; a zero adds nothing (``special.entr`` is several times slower)."""
    return -(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum(-1)


def softmax_levels(p: Tensor, quantized: Tensor, mask: Tensor | None = None) -> Levels:
    """Effective levels of attention probabilities before and after, a head at a time.

    ``exp(−Σ f ln f)`` over bins of 1/64 octave, f the share of the visible probabilities in a bin
    (:func:`~qprobe.stats.discretization.effective_levels`, whose bias cancels in the ratio to first
    order because both sides hold the same entries). ``vanished`` is the share of the probabilities
    of at least 2⁻²⁰ that quantization put below.

    >>> p = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]])
    >>> found = softmax_levels(p, torch.tensor([[[0.25, 0.25, 0.5, 0.0]]])).scalars()
    >>> round(found["levels"].item(), 3), round(found["levels_quantized"].item(), 3)
    (3.0, 1.89)
    >>> found["vanished"].item()
    0.25
    """
    _check(p, quantized, "probabilities before and after quantization")
    return reduce(Levels.merge, starmap(_softmax_levels, _batches(p, quantized, mask)))


def _softmax_levels(x: Tensor, y: Tensor, visible: Tensor) -> Levels:
    return Levels(**level_histograms(*(tensor.flatten(2) for tensor in (x, y, visible))))


def softmax_change(
    logits: Tensor, quantized: Tensor, mask: Tensor | None = None
) -> tuple[SoftmaxError, Levels]:
    """:func:`softmax_error` and :func:`softmax_levels` of the :func:`probabilities` of logits.

    >>> moved, levels = softmax_change(torch.zeros(1, 1, 2), torch.tensor([[[0.0, -100.0]]]))
    >>> moved.scalars()["total_variation"].item()  # from 1/2 and 1/2 to 1 and 0
    0.5
    >>> levels.scalars()["vanished"].item()
    0.5
    """
    _check(logits, quantized, "logits before and after quantization")
    if attention_native.usable(logits, quantized):
        found = attention_native.softmax_change(logits, quantized, mask_halves(mask, logits), BINS)
        if found is not None:
            return changed(*found, logits[..., 0, :, :].numel())
    before, after = (probabilities(x, mask) for x in (logits, quantized))
    return (
        softmax_error(before, after, mask, complete=mask is None),
        softmax_levels(before, after, mask),
    )


def mask_halves(mask: Tensor | None, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What a mask lets a query see, and what it adds."""
    if mask is None:
        return None, None
    return visible_keys(mask, like), mask.float() if mask.is_floating_point() else None


def changed(
    counts: Tensor, sums: Tensor, levels: Tensor, entries: int
) -> tuple[SoftmaxError, Levels]:
    """The states that hold what the kernel found in so many entries a head."""
    rows, decided, flipped, in_range, below = counts
    moved = SoftmaxError(
        rows=rows,
        decided=decided,
        flipped=flipped,
        entropy_change=sums[0],
        total_variation=sums[1],
    )
    few = entries <= torch.iinfo(torch.int16).max  # the largest need not be looked for
    before, after = (
        levels.to(torch.int16).unbind() if few else (narrow(one, entries) for one in levels)
    )
    return moved, Levels(
        reference=before,
        quantized=after,
        in_range=in_range,
        below=below,
        invalid=torch.zeros_like(rows),
    )


def probabilities(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax over keys in float64, mask applied; a row that sees no key is zero, not NaN.

    >>> logits = torch.zeros(1, 2, 2)
    >>> probabilities(logits, torch.tensor([[True, True], [False, False]])).tolist()
    [[[0.5, 0.5], [0.0, 0.0]]]
    """
    seen = visible_keys(mask, logits)
    x = logits.double()
    if mask is not None and mask.is_floating_point():
        x = x + mask.double()
    if mask is not None:
        x = x.masked_fill(~seen, -torch.inf)
    if not x.shape[-1]:
        return x
    return x.softmax(-1).masked_fill_(x.amax(-1, keepdim=True) == -torch.inf, 0.0)


def visible_keys(mask: Tensor | None, like: Tensor) -> Tensor:
    """Where a query sees a key, as booleans of the shape of ``like``.

    >>> visible_keys(torch.tensor([0.0, -torch.inf]), torch.zeros(1, 1, 2)).tolist()
    [[[True, False]]]
    """
    if mask is None:
        return torch.ones((), dtype=torch.bool, device=like.device).expand(like.shape)
    if mask.dtype is not torch.bool and not mask.is_floating_point():
        raise InputError(
            f"an attention mask is boolean (true: visible) or additive, got {mask.dtype}; "
            "compare it with zero first."
        )
    seen = mask if mask.dtype is torch.bool else mask > HIDDEN
    try:
        return seen.broadcast_to(like.shape)
    except RuntimeError as error:
        raise InputError(
            f"a mask of {tuple(mask.shape)} does not broadcast against attention of "
            f"{tuple(like.shape)}, [..., heads, queries, keys]."
        ) from error


def _check(reference: Tensor, other: Tensor, what: str) -> None:
    pair.check(reference, other, what)
    if reference.ndim < 3:
        raise InputError(
            f"{what} are [..., heads, queries, keys], got {tuple(reference.shape)}; "
            "unsqueeze the axis of heads."
        )


def _batches(
    reference: Tensor, other: Tensor, mask: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Both in float64 and what is seen, ``[n, heads, queries, keys]``, a few samples a time."""
    visible = visible_keys(mask, reference)
    if not reference.numel():
        nothing = reference.new_zeros(1, reference.shape[-3], 1, 1, dtype=torch.float64)
        yield nothing, nothing, nothing.bool()
        return
    shape = (-1, *reference.shape[-3:])
    whole = [tensor.detach().reshape(shape) for tensor in (reference, other, visible)]
    step = max(1, _PIECE // whole[0][0].numel())
    for at in range(0, len(whole[0]), step):
        one, two, seen = (tensor[at : at + step] for tensor in whole)
        # An expanded mask has no strides, and PyTorch is several times slower on it.
        yield one.double(), two.double(), seen.contiguous()


def _centred(x: Tensor, seen: Tensor) -> Tensor:
    """``x`` less its row means over what is seen, zero elsewhere."""
    # Less its largest first: a constant row then is exactly zero, however long it is.
    top = x.masked_fill(~seen, -torch.inf).amax(-1, keepdim=True)
    kept = (x - top).masked_fill(~seen, 0.0)
    mean = kept.sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp(min=1)
    return (kept - mean).masked_fill(~seen, 0.0)
