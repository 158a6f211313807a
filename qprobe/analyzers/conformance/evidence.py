"""One operand as its layer's quantizer gives it back, beside what the recipe intends."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from qprobe.analyzers.conformance.hypotheses import Explanation, Given, explanations
from qprobe.analyzers.conformance.lattice import TOLERANCE, Lattice, magnitudes
from qprobe.probes.operands import Taken
from qprobe.quant.blockscale import block_format
from qprobe.quant.fold import fold
from qprobe.quant.formats import IntFormat
from qprobe.quant.hadamard import rotate_folded
from qprobe.quant.products import faithful
from qprobe.quant.quantize import Operand
from qprobe.quant.rounding import Rounding
from qprobe.records.schema import Cause
from qprobe.stats import compensated, rounding_error
from qprobe.stats.additive import Additive, count
from qprobe.stats.missing import known, ratio

#: Causes that a deviation may have, in the order of hypotheses: of equals the first is named.
NAMED = (Cause.SCALE_MISSING, Cause.TOO_FEW_BITS, Cause.SCALE_WRONG, Cause.WRONG_AXIS)
#: Draws by which stochastic rounding is told from rounding that gives the same every time.
DRAWS = 4
#: Share of values on the intended grid from which only their rounding is in question.
_ON_GRID = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformity(Additive):
    """Sums over calls of one operand; energies ``[2]``, one entry a cause ``[2, causes]``."""

    n: Tensor
    deviating: Tensor
    #: Elements that some draw rounded otherwise than another: of the layer, and as intended.
    moved: Tensor
    movable: Tensor
    signal: Tensor
    #: Σ (value − x)² of the layer and as intended, Σ (value − intended)².
    noise: Tensor
    intended: Tensor
    deviation: Tensor
    #: What of the deviation each cause accounts for, and what was fitted, weighted alike.
    explained: Tensor
    fitted: Tensor
    #: ‖E value − x‖² of a stochastic operand.
    bias: Tensor

    def scalars(self) -> Mapping[str, Tensor]:
        """Shares of the operand's energy and of elements; what does not apply has no key."""
        total = compensated.total
        signal, off = total(self.signal), total(self.deviation)
        values = {
            "deviating": (ratio(self.deviating, self.n), self.n != 0),
            "noise_share": (ratio(total(self.noise), signal), signal != 0),
            "intended_noise_share": (ratio(total(self.intended), signal), signal != 0),
            "deviation_share": (ratio(off, signal), signal != 0),
            "frozen": (1.0 - ratio(self.moved, self.movable), self.movable != 0),
            "squared_bias_share": (
                ratio(total(self.bias), signal),
                (self.movable != 0) & (signal != 0),
            ),
        }
        explained, fitted = total(self.explained), total(self.fitted)
        for k, cause in enumerate(NAMED):
            values[f"{cause}.explained"] = (ratio(explained[k], off), off != 0)
            values[f"{cause}.parameter"] = (ratio(fitted[k], explained[k]), explained[k] != 0)
        return {"n": self.n} | known(values)


def examine(one: Taken) -> Conformity:
    """Ask the layer's quantizer as the layer does, and see whether that is what is intended.

    Reads tensors on the host: it is for an analysis, not for a training.
    """
    x, operand = one.x.float(), one.operand
    intended, values = _intended(one), one.values().float()
    if operand.hadamard is not None:
        x, intended, values = (_turned(t, operand) for t in (x, intended, values))
        operand = replace(operand, axes=1, partner=None, hadamard=None)
    stochastic = operand.spec.rounding is Rounding.STOCHASTIC
    given = Given(
        x=x, values=values, intended=intended, unit=_unit(one, x, operand), operand=operand
    )
    off = (values - intended).abs() > TOLERANCE * given.unit
    moved = movable = off.new_zeros((), dtype=torch.int64)
    bias = x.new_zeros((), dtype=torch.float64)
    if stochastic:
        grid = Lattice(unit=given.unit, magnitudes=magnitudes(operand))
        if float(grid.explains(values, x, Rounding.STOCHASTIC).float().mean()) >= _ON_GRID:
            off = torch.zeros_like(off)  # other random bytes are no deviation
            moved, movable, bias = _draws(one)
    return _sums(given, off, (moved, movable, bias))


def _sums(given: Given, off: Tensor, rounding: tuple[Tensor, Tensor, Tensor]) -> Conformity:
    wide = [t.double() for t in (given.x, given.values, given.intended)]
    x, values, intended = wide
    weight = torch.where(off, (values - intended).square(), 0.0)
    explained, fitted = _accounted(given, weight) if bool(off.any()) else _nothing(weight)
    moved, movable, bias = rounding
    return Conformity(
        n=torch.full((), x.numel(), dtype=torch.int64, device=x.device),
        deviating=count(off),
        moved=moved,
        movable=movable,
        signal=compensated.start(x.square().sum()),
        noise=compensated.start((values - x).square().sum()),
        intended=compensated.start((intended - x).square().sum()),
        deviation=compensated.start(weight.sum()),
        explained=compensated.start(explained),
        fitted=compensated.start(fitted),
        bias=compensated.start(bias),
    )


def _accounted(given: Given, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of each cause the energy that its best hypothesis accounts for, and that times its fit."""
    best: dict[Cause, tuple[float, float]] = {}
    for one in explanations(given):
        share = _share(one, weight)
        if share > best.get(one.cause, (0.0, 0.0))[0]:
            best[one.cause] = (share, one.parameter)
    pairs = [best.get(cause, (0.0, 0.0)) for cause in NAMED]
    explained = [share for share, _ in pairs]
    fitted = [share * parameter for share, parameter in pairs]
    return weight.new_tensor(explained), weight.new_tensor(fitted)


def _share(one: Explanation, weight: Tensor) -> float:
    return float(torch.where(one.accounts, weight, 0.0).sum())


def _nothing(like: Tensor) -> tuple[Tensor, Tensor]:
    return like.new_zeros(len(NAMED)), like.new_zeros(len(NAMED))


def _intended(one: Taken) -> Tensor:
    return replace(one, setup=replace(one.setup, quantizer=faithful)).values().float()


def _draws(one: Taken) -> tuple[Tensor, Tensor, Tensor]:
    """Elements that move between draws of the layer, and of the recipe; the squared bias."""
    looks = [replace(one, draw=one.draw + k) for k in range(DRAWS)]
    mine = torch.stack([look.values().float() for look in looks])
    theirs = torch.stack([_intended(look) for look in looks])
    moved, movable = (count((every != every[:1]).any(0)) for every in (mine, theirs))
    bias = rounding_error(one.x.float(), list(mine)).squared_bias()
    return moved, movable, bias.double()


def _unit(one: Taken, x: Tensor, operand: Operand) -> Tensor:
    """What a code is multiplied with, in the shape of ``x``."""
    unit = one.grid().unit
    if isinstance(operand.spec.format, IntFormat):
        return unit.expand_as(x)
    folded = fold(x, operand.axes, operand.spec.format.block)
    return folded.unfold(unit.expand_as(folded.x).contiguous())


def _turned(x: Tensor, operand: Operand) -> Tensor:
    """Where a rotated operand is rounded: ``[outer, length, inner]``, in the rotation's basis."""
    folded = fold(x, operand.axes, block_format(operand.spec).block).x
    missing = -folded.shape[1] % (operand.hadamard or 1)
    return rotate_folded(F.pad(folded, (0, 0, 0, missing)) if missing else folded)
