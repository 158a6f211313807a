"""What quantization does to one operand, from the operand and what came back."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import starmap

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.stats import compensated, pair
from qprobe.stats.additive import Additive, count
from qprobe.stats.missing import decibels, known, ratio

#: How far above the limit counts as saturated: an element *at* the limit is on one side or the
#: other by the last bit of a scale, so a share of 2⁻¹⁸ is left to it.
MARGIN = 2.0**-18


@dataclass(frozen=True, slots=True, kw_only=True)
class OperandError(Additive):
    """Sums over the elements of an operand, no axes."""

    #: Elements, of these not zero, of these not finite; all int64.
    n: Tensor
    nonzero: Tensor
    nonfinite: Tensor
    #: Elements that were not zero and became zero.
    underflow: Tensor
    #: Elements with a known limit, and of these above it.
    limited: Tensor
    saturated: Tensor
    #: Sums ``[2]`` of x², of (x̂ − x)², and of |x̂ − x|/|x| where x ≠ 0.
    signal: Tensor
    noise: Tensor
    relative: Tensor

    def scalars(self) -> Mapping[str, Tensor]:
        signal, noise = compensated.total(self.signal), compensated.total(self.noise)
        some, moved = self.n > 0, self.nonzero > 0
        values = {
            "sqnr_db": (decibels(signal, noise), some & ~((signal == 0) & (noise == 0))),
            "relative_error": (ratio(compensated.total(self.relative), self.nonzero), moved),
            "underflow": (ratio(self.underflow, self.nonzero), moved),
            "saturation": (ratio(self.saturated, self.limited), self.limited > 0),
            "nonfinite": (ratio(self.nonfinite, self.n), some),
        }
        return {"n": self.n} | known(values)


def operand_error(
    x: Tensor, quantized: Tensor, limit: Tensor | float | None = None
) -> OperandError:
    """SQNR, relative error, underflow and saturation of an operand.

    ``x`` is the operand ``[...]`` and ``quantized`` its dequantized values x̂. ``limit`` is the
    largest magnitude its code can hold (6 times the decode scale for E2M1), broadcast against x;
    without it saturation is missing. As scalars::

        sqnr_db         10·log10(Σ x² / Σ (x̂ − x)²); +inf without error, missing where both are 0
        relative_error  mean of |x̂ − x| / |x| where x ≠ 0 (‖x̂ − x‖/‖x‖ is 10^(−sqnr_db/20))
        underflow       share of x ≠ 0 with x̂ = 0
        saturation      share of |x| > limit·(1 + 2⁻¹⁸)
        nonfinite       share of NaN and infinity in x or x̂; the first two are NaN then

    All are exact for the elements given, without bias; of a sample of rows they estimate the whole.
    Squares overflow above 10¹⁵⁰, which only float64 holds.

    Reference: Lin et al. 2016, "Fixed point quantization of deep convolutional networks".

    >>> x = torch.tensor([8.0, 2.0, 0.1, 0.0])
    >>> found = operand_error(x, torch.tensor([6.0, 2.0, 0.0, 0.0]), limit=6.0).scalars()
    >>> round(found["sqnr_db"].item(), 4)  # 10·log10(68.01 / 4.01)
    12.2943
    >>> [round(found[key].item(), 4) for key in ("relative_error", "underflow", "saturation")]
    [0.4167, 0.3333, 0.25]
    """
    pair.check(x, quantized, "an operand and its quantized values")
    tensors = [x, quantized]
    if limit is not None:
        tensors.append(_limits(limit, x))
    return reduce(OperandError.merge, starmap(_operand_error, pair.pieces(*tensors)))


def _operand_error(x: Tensor, y: Tensor, limit: Tensor | None = None) -> OperandError:
    nonzero = x != 0
    change = (y - x).abs()
    relative = torch.where(nonzero, change / x.abs(), 0.0)
    finite = x.isfinite() & y.isfinite()
    above = torch.zeros_like(nonzero) if limit is None else x.abs() > limit * (1.0 + MARGIN)
    size = torch.full((), x.numel(), dtype=torch.int64, device=x.device)
    return OperandError(
        n=size,
        nonzero=count(nonzero),
        nonfinite=count(~finite),
        underflow=count(nonzero & (y == 0)),
        limited=size * (limit is not None),
        saturated=count(above),
        signal=compensated.start(torch.dot(x, x)),
        noise=compensated.start(torch.dot(change, change)),
        relative=compensated.start(relative.sum()),
    )


def _limits(limit: Tensor | float, x: Tensor) -> Tensor:
    if not isinstance(limit, Tensor):
        return torch.full((), limit, dtype=torch.float64, device=x.device).expand(x.shape)
    try:
        return limit.broadcast_to(x.shape)
    except RuntimeError as error:
        raise InputError(
            f"limits of {tuple(limit.shape)} do not broadcast against an operand of "
            f"{tuple(x.shape)}; repeat a block's limit for each of its elements."
        ) from error
