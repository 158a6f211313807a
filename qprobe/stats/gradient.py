"""How true a quantized gradient is, and whether that matters beside the noise of the mini-batch.

States here merge over *pieces of one gradient* (parameters, shards of ranks): the merged state is
that of the concatenated vector. Over micro-batches add the gradients first: their errors do not
add.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import starmap

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.stats import compensated, pair
from qprobe.stats.additive import Additive
from qprobe.stats.missing import decibels, known, ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientError(Additive):
    """Inner products of a gradient g and its quantized version ĝ; sums ``[2]``."""

    n: Tensor
    dot: Tensor
    reference: Tensor
    quantized: Tensor
    difference: Tensor

    def scalars(self) -> Mapping[str, Tensor]:
        dot, g, h, off = (
            compensated.total(x)
            for x in (self.dot, self.reference, self.quantized, self.difference)
        )
        there = g != 0  # true for NaN, which then stands under the keys
        values = {
            "cosine": (ratio(dot, g.sqrt() * h.sqrt()), there & (h != 0)),
            "norm_ratio": (ratio(h, g).sqrt(), there),
            "projection": (ratio(dot, g), there),
            "lost_decrease": (1.0 - ratio(dot, g), there),
            "snr_db": (decibels(g, off), there | (off != 0)),
        }
        return {"n": self.n} | known(values)


def gradient_error(reference: Tensor, quantized: Tensor) -> GradientError:
    """Cosine, norm ratio, projection, lost decrease and SNR of a gradient under a recipe.

    With g the gradient in high precision and ĝ the same batch's gradient under the recipe, both of
    one shape ``[...]``::

        cosine         ⟨g, ĝ⟩ / (‖g‖·‖ĝ‖)
        norm_ratio     ‖ĝ‖ / ‖g‖
        projection     ⟨g, ĝ⟩ / ‖g‖²
        lost_decrease  1 − ⟨g, ĝ⟩ / ‖g‖²: the share of the first-order loss decrease that is lost
        snr_db         10·log10(‖g‖² / ‖ĝ − g‖²)

    Exact for the two vectors. Of one stochastic draw, projection and lost decrease are unbiased for
    their means over draws; the cosine is low by the draw's variance (see :func:`rounding_error`).
    A zero gradient g has none of these; without ĝ the cosine alone is missing.

    Reference: Nocedal, Wright 2006, "Numerical Optimization", sec. 2.2, for the first-order term.

    >>> found = gradient_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0])).scalars()
    >>> [round(found[key].item(), 4) for key in ("cosine", "norm_ratio", "lost_decrease")]
    [0.6, 0.6, 0.64]
    """
    pair.check(reference, quantized, "a gradient and its quantized version")
    return reduce(GradientError.merge, starmap(_gradient_error, pair.pieces(reference, quantized)))


def _gradient_error(g: Tensor, h: Tensor) -> GradientError:
    off = h - g
    return GradientError(
        n=torch.full((), g.numel(), dtype=torch.int64, device=g.device),
        dot=compensated.start(torch.dot(g, h)),
        reference=compensated.start(torch.dot(g, g)),
        quantized=compensated.start(torch.dot(h, h)),
        difference=compensated.start(torch.dot(off, off)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundingError(Additive):
    """Sums over elements for k stochastic draws ĝ_1..ĝ_k of one gradient g."""

    #: Elements, int64.
    n: Tensor
    #: ‖g‖², ‖m − g‖² with m the mean of the draws, and Σ_j ‖ĝ_j − m‖²; ``[2]``.
    reference: Tensor
    offset: Tensor
    spread: Tensor
    #: ⟨ĝ_j, g⟩ of each draw, ``[2, k]``.
    dots: Tensor

    @property
    def draws(self) -> int:
        """How many draws of each element, k."""
        return self.dots.shape[-1]

    def squared_bias(self) -> Tensor:
        """Unbiased estimate of ‖E ĝ − g‖², which may be negative; NaN from one draw."""
        return compensated.total(self.offset) - self.variance() / self.draws

    def variance(self) -> Tensor:
        """Unbiased estimate of E‖ĝ − E ĝ‖²; NaN from one draw."""
        spread = compensated.total(self.spread)
        return spread / (self.draws - 1) if self.draws > 1 else torch.full_like(spread, torch.nan)

    def scalars(self) -> Mapping[str, Tensor]:
        g = compensated.total(self.reference)
        there = g != 0
        projections = ratio(compensated.total(self.dots), g.expand(self.draws))
        several = there & torch.full_like(there, self.draws > 1)
        values = {
            "projection": (projections.mean(), there),
            "mean_error": (ratio(compensated.total(self.offset), g), there),
            "squared_bias": (ratio(self.squared_bias(), g), several),
            "variance": (ratio(self.variance(), g), several),
        }
        if self.draws > 1:
            stderr = projections.std() / self.draws**0.5
            values["projection_stderr"] = (stderr, several)
        draws = torch.full_like(self.n, self.draws)
        return {"n": self.n, "draws": draws} | known(values)


def rounding_error(reference: Tensor, draws: Sequence[Tensor] | Tensor) -> RoundingError:
    """Bias apart from variance, from k stochastic draws of one gradient.

    ``reference`` is g ``[...]``, ``draws`` holds ĝ_1..ĝ_k ``[k, ...]`` of the same batch with
    independent rounding. With m their mean, s² = Σ_j ‖ĝ_j − m‖² / (k − 1), as shares of ‖g‖²::

        variance      s², unbiased for V = E‖ĝ − E ĝ‖²
        squared_bias  ‖m − g‖² − s²/k, unbiased for ‖E ĝ − g‖²: ‖m − g‖² alone is high by V/k
        mean_error    ‖m − g‖², what averaging k draws leaves
        projection    ⟨m, g⟩ / ‖g‖² with its standard error over draws; 1 where nothing is lost

    The estimate of the squared bias is negative about half the time where there is no bias, and is
    not clipped, since that would make it biased. It needs k ≥ 2; its own standard error is about
    ``√2·V/(k·√d)`` of d comparable, independent elements. A zero g has none of these.

    Reference: Croci et al. 2022, "Stochastic rounding: implementation, error analysis and
    applications", for the split; the 1/k correction is that of a squared mean.

    >>> g = torch.tensor([1.0, 1.0])
    >>> found = rounding_error(g, [torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0])]).scalars()
    >>> found["variance"].item(), found["squared_bias"].item()  # s² = 2, m = g: 0 − 2/2
    (1.0, -0.5)
    >>> found["projection"].item()
    1.0
    """
    every = list(draws)
    if not every:
        raise InputError("the error of rounding is taken over at least one draw, got none.")
    for draw in every:
        pair.check(reference, draw, "a gradient and its stochastic draws")
    return reduce(RoundingError.merge, starmap(_rounding_error, pair.pieces(reference, *every)))


def _rounding_error(g: Tensor, *draws: Tensor) -> RoundingError:
    stacked = torch.stack(draws)
    # About g first: where all draws are g, offset and spread are exactly zero.
    error = stacked - g
    mean = error.mean(0)
    return RoundingError(
        n=torch.full((), g.numel(), dtype=torch.int64, device=g.device),
        reference=compensated.start(torch.dot(g, g)),
        offset=compensated.start(mean.square().sum()),
        spread=compensated.start((error - mean).square().sum()),
        dots=compensated.start(stacked @ g),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNoise(Additive):
    """Inner products of the gradients of two batches, and the quantization error of the first."""

    n: Tensor
    dot: Tensor
    first: Tensor
    second: Tensor
    #: ‖g₁ − g₂‖² and ‖ĝ₁ − g₁‖².
    difference: Tensor
    rounding: Tensor

    def scalars(self) -> Mapping[str, Tensor]:
        dot, first, second, apart, rounding = (
            compensated.total(x)
            for x in (self.dot, self.first, self.second, self.difference, self.rounding)
        )
        both = (first != 0) & (second != 0)
        values = {
            "batch_cosine": (ratio(dot, first.sqrt() * second.sqrt()), both),
            "batch_noise": (ratio(apart / 2, (first + second) / 2), (first + second) != 0),
            "noise_ratio": (ratio(rounding, apart / 2), apart != 0),
        }
        return {"n": self.n} | known(values)


def batch_noise(first: Tensor, second: Tensor, quantized: Tensor) -> BatchNoise:
    """Quantization noise beside the noise that the choice of the batch makes anyway.

    ``first`` and ``second`` are the gradients g₁, g₂ of two independent batches in high precision,
    ``quantized`` is ĝ₁, the first batch's under the recipe; all ``[...]``. As scalars::

        batch_cosine  ⟨g₁, g₂⟩ / (‖g₁‖·‖g₂‖)
        batch_noise   ‖g₁ − g₂‖² / (‖g₁‖² + ‖g₂‖²), the noise share of a gradient's energy
        noise_ratio   ‖ĝ₁ − g₁‖² / (½·‖g₁ − g₂‖²)

    ½·‖g₁ − g₂‖² is unbiased for the variance tr Cov(g) of one batch's gradient. A noise ratio well
    below 1 means that quantization adds little to what the batch does; from one pair of batches it
    is as noisy as ‖g₁ − g₂‖² is, so average both energies over pairs (the ratio itself is high by
    Jensen's inequality). It says nothing of bias, which averages out over no number of steps.

    Reference: McCandlish et al. 2018, "An empirical model of large-batch training", sec. 2.2.

    >>> g, h = torch.tensor([2.0, 1.0]), torch.tensor([2.0, -1.0])
    >>> found = batch_noise(g, h, torch.tensor([2.0, 0.0])).scalars()
    >>> [round(found[key].item(), 4) for key in ("batch_cosine", "batch_noise", "noise_ratio")]
    [0.6, 0.4, 0.5]
    """
    pair.check(first, second, "the gradients of two batches")
    pair.check(first, quantized, "a gradient and its quantized version")
    return reduce(BatchNoise.merge, starmap(_batch_noise, pair.pieces(first, second, quantized)))


def _batch_noise(first: Tensor, second: Tensor, quantized: Tensor) -> BatchNoise:
    return BatchNoise(
        n=torch.full((), first.numel(), dtype=torch.int64, device=first.device),
        dot=compensated.start(torch.dot(first, second)),
        first=compensated.start(torch.dot(first, first)),
        second=compensated.start(torch.dot(second, second)),
        difference=compensated.start((first - second).square().sum()),
        rounding=compensated.start((quantized - first).square().sum()),
    )
