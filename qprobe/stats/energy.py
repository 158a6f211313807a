"""How much gradient each branch of a fusion node gets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qprobe.errors import InputError
from qprobe.stats import compensated, pair
from qprobe.stats.additive import Additive
from qprobe.stats.missing import known, ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchEnergy(Additive):
    """Sums over samples, a value a branch."""

    #: Samples and elements that a gradient was seen of, int64 ``[branches]``.
    samples: Tensor
    elements: Tensor
    #: Sum over samples of the squared norm without the loss scale, ``[2, branches]``.
    squares: Tensor

    def energy(self) -> Tensor:
        """E_i, ``[branches]``; NaN where a branch is missing."""
        return ratio(compensated.total(self.squares), self.samples)

    def energy_per_element(self) -> Tensor:
        """Mean square of an element of the gradient, ``[branches]``; NaN where missing."""
        return ratio(compensated.total(self.squares), self.elements)

    def scalars(self) -> Mapping[str, Tensor]:
        seen = self.samples > 0
        energy, mean_square = self.energy(), self.energy_per_element()
        deviation = log_deviation(energy, seen)
        live = seen & (energy != 0)
        compared = (seen.sum() > 1) & live.any()
        found = {
            "n": self.samples.amax(),
            "dead": (seen & ~live).sum(),
            "missing": (~seen).sum(),
        }
        for i in range(len(seen)):
            values = {
                "energy": (energy[i], seen[i]),
                "energy_per_element": (mean_square[i], self.elements[i] > 0),
                "deviation": (deviation[i], seen[i] & compared),
            }
            found |= known({f"branch{i}.{key}": value for key, value in values.items()})
        spread = {
            "imbalance": (imbalance(energy, seen), compared),
            "imbalance_per_element": (imbalance(mean_square, seen), compared),
        }
        return found | known(spread)


def branch_energy(
    gradients: Sequence[Tensor | None], loss_scale: Tensor | float = 1.0
) -> BranchEnergy:
    """Gradient energy of each branch of a fusion node, and how uneven it is.

    ``gradients`` holds ∂L/∂f_i of each branch ``[batch, ...]``, None where none arrived;
    ``loss_scale`` is what the loss was multiplied with (a gradient scaler's scale, the world size,
    1/batch of a mean loss) and is divided out. As scalars, a sample's norm over all but axis 0::

        branch0.energy              E_i = mean over samples of ‖∂L/∂f_i‖²
        branch0.energy_per_element  E_i / elements of a sample
        branch0.deviation           δ_i = ln E_i − mean_j ln E_j
        imbalance                   max δ − min δ; imbalance_per_element likewise
        dead, missing               branches whose gradient is zero, that got no gradient

    The mean of the logarithms is over live branches. A dead branch beside a live one has δ = −inf
    and makes the imbalance +inf; deviations and imbalance are missing where all are dead or fewer
    than two were seen. E_i is unbiased for its expectation over samples, ln E_i low by about
    Var(‖·‖²)/(2·n·E_i²). Micro-batches merge to the whole batch, given one scale for each.

    Reference: Q²: "Quantization-Aware Gradient Balancing and Attention Alignment for Low-Bit
    Quantization", eq. 4 for E_i, eq. 9 for the deviation (there of a moving average).

    >>> deep, skip = torch.tensor([[2.0], [0.0]]), torch.tensor([[1.0], [1.0]])
    >>> found = branch_energy([deep, skip]).scalars()
    >>> found["branch0.energy"].item(), found["branch1.energy"].item()
    (2.0, 1.0)
    >>> round(found["imbalance"].item(), 4)  # ln 2
    0.6931
    >>> branch_energy([deep, torch.zeros(2, 1)]).scalars()["imbalance"].item()
    inf
    """
    if len(gradients) < 2:
        raise InputError(f"a fusion node has at least two branches, got {len(gradients)}.")
    if not isinstance(loss_scale, Tensor) and not 0.0 < loss_scale < float("inf"):
        raise InputError(f"a loss scale is a positive number, got {loss_scale}.")
    device = next((g.device for g in gradients if g is not None), torch.device("cpu"))
    samples = [0 if g is None else _samples(g) for g in gradients]
    elements = [0 if g is None else g.numel() for g in gradients]
    none = torch.zeros((), dtype=torch.float64, device=device)
    squares = torch.stack([none if g is None else pair.products(g, g) for g in gradients])
    return BranchEnergy(
        samples=_counts(samples, device),
        elements=_counts(elements, device),
        squares=compensated.start(squares / loss_scale / loss_scale),
    )


def log_deviation(energy: Tensor, seen: Tensor) -> Tensor:
    """``δ_i = ln E_i − mean_j ln E_j``, the mean over the branches that are seen and not zero.

    −inf for a dead branch; NaN for a missing one, and for all where none is live.

    >>> seen = torch.tensor([True, True, False])
    >>> log_deviation(torch.tensor([1.0, 4.0, 0.0]), seen).tolist()  # ∓ln 2
    [-0.6931..., 0.6931..., nan]
    """
    logs = energy.double().log()
    live = seen & (energy != 0)
    mean = ratio(torch.where(live, logs, 0.0).sum(), live.sum())
    return torch.where(seen, logs - mean, torch.nan)


def imbalance(energy: Tensor, seen: Tensor) -> Tensor:
    """``max δ − min δ`` over the branches that are seen, in nats; +inf beside a dead branch."""
    deviation = log_deviation(energy, seen)
    largest = torch.where(seen, deviation, -torch.inf).amax()
    return largest - torch.where(seen, deviation, torch.inf).amin()


def _samples(gradient: Tensor) -> int:
    if gradient.ndim == 0 or not gradient.is_floating_point():
        raise InputError(
            f"a branch's gradient is a floating-point [batch, ...], got {gradient.dtype} of shape "
            f"{tuple(gradient.shape)}."
        )
    return len(gradient)


def _counts(values: Sequence[int], device: torch.device) -> Tensor:
    """int64 of host numbers, filled on the device so that nothing is copied to it."""
    return torch.stack(
        [torch.full((), value, dtype=torch.int64, device=device) for value in values]
    )
