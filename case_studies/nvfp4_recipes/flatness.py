"""How curved the loss is around some weights, and what quantization of the weights costs there.

Everything is taken in high precision and evaluation mode, of the mean loss over fixed batches.

Eigenvalues and the trace of the Hessian depend on the scale of the weights, which a norm after the
layer takes back: they compare nothing across architectures. Three numbers here do not depend on
it. The *filter-normalised* curvature is that of ``w + D·u`` in u, with D the root mean square of a
weight's own filter on the quantized weights and zero elsewhere: ``½·ε²·tr(D·H·D)`` is what random
noise of relative size ε costs on average. ``Δwᵀ·H·Δw`` under a recipe's own error Δw moves with
the weights. And ``nᵀHn / gᵀHg`` sets the error n of the quantized gradient beside the gradient g:
the share of what the best step along g gains that the error's curvature takes back.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qprobe.analyzers.base import Subject
from qprobe.analyzers.curvature.expansion import changed_losses, expand, weighted
from qprobe.analyzers.curvature.hessian import flat, gradient, hessian, parts
from qprobe.analyzers.curvature.replica import Replica
from qprobe.engine.losses import bce_tversky_per_image
from qprobe.engine.subject import PooledAuprc
from qprobe.quant import convert, recipe
from qprobe.quant.layers import QuantizedLayer
from qprobe.quant.weight_error import weight_error
from qprobe.stats import (
    Estimate,
    Operator,
    hutchinson_trace,
    quadratic_form,
    spectral_density,
    top_eigenvalues,
)

Pairs = Sequence[tuple[Tensor, Tensor]]
Change = Mapping[str, Tensor]
Values = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Random vectors of a trace, and steps of Lanczos for eigenvalues and density."""

    draws: int = 16
    steps: int = 15


def replica_of(model: nn.Module, batches: Pairs) -> Replica:
    """The mean loss over ``batches`` as a function of the weights of a copy of ``model``."""
    twin = copy.deepcopy(model)
    convert(twin, "nvfp4")
    subject = Subject(
        model=twin,
        recipe=recipe("nvfp4"),
        batches=lambda: list(batches),
        loss=lambda output, batch: bce_tversky_per_image(output, batch[1]),
        score=PooledAuprc(),
    )
    return Replica(subject, len(batches))


def weight_change(model: nn.Module, name: str) -> dict[str, Tensor]:
    """What a recipe changes about the weights of ``model``, by parameter."""
    twin = copy.deepcopy(model)
    convert(twin, name, generator=torch.Generator())
    layers = dict(twin.named_modules())
    return {
        f"{path}.weight": error
        for path, layer in layers.items()
        if isinstance(layer, QuantizedLayer) and (error := weight_error(layer)) is not None
    }


def filter_scale(replica: Replica, names: Sequence[str]) -> Tensor:
    """D as a vector: of each weight the root mean square of its filter, zero but for ``names``."""
    scales = []
    for name, value in zip(replica.names, replica.values, strict=True):
        if name not in names:
            scales.append(torch.zeros_like(value))
            continue
        path = name.rpartition(".")[0]
        owner = replica.model.get_submodule(path)
        out = 1 if isinstance(owner, nn.ConvTranspose2d) else 0
        axes = [axis for axis in range(value.dim()) if axis != out]
        scales.append(value.square().mean(axes, keepdim=True).sqrt().expand_as(value))
    return torch.cat([scale.detach().flatten() for scale in scales])


def normalised(operator: Operator, scale: Tensor) -> Operator:
    """``D·H·D`` for a diagonal D.

    >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    >>> scaled = normalised(Operator(matvec=matrix.mv, size=2), torch.tensor([1.0, 10.0]))
    >>> scaled(torch.tensor([1.0, 1.0])).tolist()
    [12.0, 310.0]
    """
    wide = scale.to(operator.dtype)
    return Operator(
        matvec=lambda v: wide * operator(wide * v),
        size=operator.size,
        dtype=operator.dtype,
        device=operator.device,
    )


def curvature(replica: Replica, names: Sequence[str], effort: Effort, seed: int) -> Values:
    """Trace, largest eigenvalues and density of H and of the filter-normalised Hessian."""
    generator = torch.Generator().manual_seed(seed)
    with replica.undisturbed():
        plain = hessian(replica, keep=True)
        scaled = normalised(plain, filter_scale(replica, names))
        found: Values = {"parameters": plain.size, "weights": _count(replica, names)}
        for title, operator in (("hessian", plain), ("normalised", scaled)):
            trace = hutchinson_trace(operator, effort.draws, generator)
            top = top_eigenvalues(operator, 2, effort.steps, generator)
            found[title] = {
                "trace": _estimate(trace),
                "top": list(top.values),
                "residuals": list(top.residuals),
            }
        spectrum = spectral_density(plain, 2, effort.steps, generator)
        reach = float(np.ptp(np.concatenate(spectrum.nodes)))
        found["hessian"]["density"] = {
            "nodes": [one.tolist() for one in spectrum.nodes],
            "weights": [one.tolist() for one in spectrum.weights],
            "negative_share": _estimate(spectrum.share_below(-1e-3 * reach)),
        }
    return found


def along_gradients(replica: Replica, model: nn.Module, recipes: Sequence[str]) -> Values:
    """``gᵀHg/gᵀg``, and per recipe ``nᵀHn/nᵀn`` and ``nᵀHn/gᵀHg`` of the gradient's error n."""
    with replica.undisturbed():
        operator = hessian(replica, keep=True)
        g = gradient(replica)
        slope, bend = float(g.double().square().sum()), quadratic_form(operator, g)
        found: Values = {"gradient_norm": slope**0.5, "along_gradient": bend / slope}
        for name in recipes:
            n = _quantized_gradient(replica, model, name) - g
            size, curved = float(n.double().square().sum()), quadratic_form(operator, n)
            found[name] = {
                "error": size / slope,
                "along_noise": curved / size if size else 0.0,
                "noise_share": curved / bend,
            }
    return found


def _quantized_gradient(replica: Replica, model: nn.Module, name: str) -> Tensor:
    """The gradient of the mean loss of all batches under a recipe, in evaluation mode."""
    twin = copy.deepcopy(model).eval()
    convert(twin, name, generator=torch.Generator().manual_seed(0))
    by_name = dict(twin.named_parameters())
    total = torch.zeros(sum(value.numel() for value in replica.values))
    for batch in replica.batches:
        loss = bce_tversky_per_image(twin(batch[0]), batch[1]).sum() / replica.total
        found = torch.autograd.grad(loss, [by_name[name] for name in replica.names])
        total += torch.cat([part.flatten() for part in found])
    return total


def costs(replica: Replica, changes: Mapping[str, Change], factors: Sequence[float]) -> Values:
    """The loss under changes of the weights: to first and second order, and measured.

    Each with its standard error over units of the batches (parts of a batch). ``scaled`` holds
    measured and predicted costs of the change times each of ``factors``.
    """
    names = list(changes)
    with replica.undisturbed():
        found = expand(replica, list(changes.values()))
        table: Values = {}
        for at, name in enumerate(names):
            first, second = found.first[:, at], 0.5 * found.second[:, at, at]
            row: Values = {}
            for key, value in (("first", first), ("second", second), ("predicted", first + second)):
                row[key], row[f"{key}_stderr"] = weighted(value, found.samples)
            row["measured"], row["measured_stderr"] = weighted(
                changed_losses(replica, changes[name]), found.samples
            )
            row["scaled"] = [
                _scaled(replica, changes[name], row, factor, found.samples) for factor in factors
            ]
            table[name] = row
    return table


def _scaled(replica: Replica, change: Change, row: Values, factor: float, samples: Any) -> Values:
    moved = {name: factor * value for name, value in change.items()}
    measured, stderr = weighted(changed_losses(replica, moved), samples)
    predicted = factor * row["first"] + factor**2 * row["second"]
    return {
        "factor": factor,
        "measured": measured,
        "measured_stderr": stderr,
        "predicted": predicted,
    }


def costs_by_layer(replica: Replica, change: Change) -> list[Values]:
    """Predicted and measured cost of each layer's change alone, in the order of the model."""
    rows = []
    with replica.undisturbed():
        operator = hessian(replica, keep=True)
        g = parts(gradient(replica), replica.values)
        slopes = dict(zip(replica.names, g, strict=True))
        samples = _units(replica)
        for name, value in change.items():
            first = float((slopes[name].double() * value.double()).sum())
            second = 0.5 * quadratic_form(operator, _laid(replica, {name: value}))
            measured, stderr = weighted(changed_losses(replica, {name: value}), samples)
            rows.append(
                {
                    "weight": name,
                    "first": first,
                    "second": second,
                    "measured": measured,
                    "measured_stderr": stderr,
                }
            )
    return rows


def _laid(replica: Replica, change: Change) -> Tensor:
    """A change as a vector over all parameters."""
    return flat([change.get(name) for name in replica.names], replica.values)


def _units(replica: Replica) -> np.ndarray:
    """Samples of each unit: with eight batches or more, a unit is a batch."""
    return np.asarray(replica.samples, dtype=np.float64)


def _count(replica: Replica, names: Sequence[str]) -> int:
    sizes = dict(zip(replica.names, replica.values, strict=True))
    return sum(sizes[name].numel() for name in names)


def _estimate(found: Estimate) -> Values:
    return {"estimate": found.estimate, "stderr": found.stderr, "draws": found.draws}
