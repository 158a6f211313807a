"""Gradients of the quantized layers' weights under a recipe, beside those in high precision.

The model is in training mode, batch statistics and dropout included, and both sides draw the same
dropout: what is left between them is quantization. Gradients of some batches of one size are taken
as one long vector each, all quantized layers end to end.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qprobe import attach
from qprobe.engine.losses import bce_tversky
from qprobe.faults import candidates, plant
from qprobe.probes.operand_error import OperandError
from qprobe.quant import NVFP4, Gemm, QuantRecipe, QuantSpec, Rounding, convert, recipe
from qprobe.quant.layers import QuantizedLayer
from qprobe.stats import BatchNoise, batch_noise, gradient_error, rounding_error

Values = dict[str, float]
Pairs = Sequence[tuple[Tensor, Tensor]]

_NEAREST = QuantSpec(format=NVFP4)
_STOCHASTIC = QuantSpec(format=NVFP4, rounding=Rounding.STOCHASTIC)
#: The gradients alone in four bits: where the rounding of the gradient is all there is.
_ALONE = {
    "gradient-nearest": QuantRecipe(
        name="gradient-nearest",
        dgrad=Gemm(a=_NEAREST),
        wgrad=Gemm(a=_NEAREST),
        summary="only the arriving gradient, rounded to nearest",
        reference="this study",
    ),
    "gradient-stochastic": QuantRecipe(
        name="gradient-stochastic",
        dgrad=Gemm(a=_STOCHASTIC),
        wgrad=Gemm(a=_STOCHASTIC),
        summary="only the arriving gradient, rounded stochastically",
        reference="this study",
    ),
}
#: What is added to a recipe's name where the factor per tensor is missing: a planted defect.
FAULT = " without tensor scale"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gradients:
    """Gradients ``[batches, elements]`` in float64 and in high precision, of the same batches."""

    reference: Tensor
    quantized: Tensor
    #: More draws of the first batch's, ``[draws, elements]``; none where nothing is random.
    draws: Tensor


def under(model: nn.Module, name: str, seed: int) -> nn.Module:
    """A copy in training mode under a recipe, one of its gradients alone, or one with a fault."""
    twin = copy.deepcopy(model)
    base = name.removesuffix(FAULT)
    generator = torch.Generator(next(twin.parameters()).device).manual_seed(seed)
    convert(twin, _ALONE.get(base) or recipe(base), generator=generator)
    if name != base:
        for site in candidates(twin, "missing-gradient-scale"):
            plant(twin, "missing-gradient-scale", site, strength=1.0)
    return twin.train()


def weights(model: nn.Module) -> list[str]:
    """The weights of the layers that the paper's recipes quantize."""
    twin = copy.deepcopy(model)
    paths = convert(twin, "nvfp4").converted
    return [
        f"{path}.weight" for path in paths if isinstance(twin.get_submodule(path), QuantizedLayer)
    ]


def gradient(
    model: nn.Module, batch: tuple[Tensor, Tensor], names: Sequence[str], seed: int
) -> Tensor:
    """The loss gradient of some weights, end to end in float64; dropout is drawn from ``seed``."""
    by_name = dict(model.named_parameters())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        loss = bce_tversky(model(batch[0]), batch[1])
    found = torch.autograd.grad(loss, [by_name[name] for name in names])
    return torch.cat([part.flatten().double() for part in found])


def gradients(model: nn.Module, batches: Pairs, names: Sequence[str]) -> Tensor:
    """One gradient a batch, ``[batches, elements]``."""
    return torch.stack([gradient(model, one, names, at) for at, one in enumerate(batches)])


def error_of(found: Gradients) -> Values:
    """Bias and variance of a quantized gradient, beside the noise of the mini-batch.

    Per batch, averaged: ``cosine``, ``projection`` (⟨g, ĝ⟩/‖g‖², 1 where nothing is lost) and
    ``error`` (‖ĝ − g‖²/‖g‖²). Over batches, with e_b = ĝ_b − g_b and as shares of the mini-batch
    variance tr Cov(g): ``noise_ratio`` the mean of ‖e_b‖², and ``bias_ratio`` the unbiased estimate
    of ‖E e‖², which a large batch does not average out. ``parity_batches`` is where that bias
    equals the mini-batch noise that is left, absent where no bias was found. Of several draws of
    one batch: ``draw_squared_bias`` and ``draw_variance`` as shares of ‖g‖², and
    ``draw_projection`` with its standard error.
    """
    g, q = found.reference, found.quantized
    each = [gradient_error(one, other).scalars() for one, other in zip(g, q, strict=True)]
    values = {
        key: sum(float(one[key]) if key in one else 0.0 for one in each) / len(each)
        for key in ("cosine", "projection")
    }
    off = q - g
    energy = g.square().sum(1)
    values["error"] = float((off.square().sum(1) / energy).mean())
    variance = float(g.var(0).sum())
    # Errors about the mean gradient, as if they were draws of it: their mean is the bias.
    mean = g.mean(0)
    split = rounding_error(mean, list(off + mean))
    bias = float(split.squared_bias())
    values |= {
        "noise_ratio": float(off.square().sum(1).mean()) / variance,
        "bias_ratio": bias / variance,
        "accumulated_projection": float(split.scalars()["projection"]),
        "accumulated_ratio": float(off.mean(0).square().sum()) * len(g) / variance,
    }
    if bias > 0:
        values["parity_batches"] = variance / bias
    return values | _of_draws(found)


def _of_draws(found: Gradients) -> Values:
    if len(found.draws) < 2:
        return {}
    scalars = rounding_error(found.reference[0], list(found.draws)).scalars()
    keys = ("projection", "projection_stderr", "squared_bias", "variance", "mean_error")
    return {f"draw_{key}": float(scalars[key]) for key in keys}


def mini_batch_noise(g: Tensor) -> Values:
    """How much gradients ``[batches, elements]`` differ: over disjoint pairs, energies added."""
    pairs = [batch_noise(g[at], g[at + 1], g[at]) for at in range(0, len(g) - 1, 2)]
    whole: BatchNoise = pairs[0]
    for one in pairs[1:]:
        whole = whole.merge(one)
    scalars = whole.scalars()
    return {key: float(scalars[key]) for key in ("batch_cosine", "batch_noise")}


def operand_shares(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Values:
    """What rounding does to the arriving gradients in wgrad, over the elements of all layers.

    ``underflow`` is the share of what is not zero and becomes zero, ``saturation`` that of what is
    above the largest code of its block; of a tampered quantizer nobody knows the latter. Empty
    where no arriving gradient is quantized.
    """
    if not any(_quantizes_gradient(one) for one in model.modules()):
        return {}
    sums: dict[str, list[tuple[float, float]]] = {"underflow": [], "saturation": []}
    with attach(model, probes=[OperandError()], every=1) as session:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            bce_tversky(model(batch[0]), batch[1]).backward()  # type: ignore[no-untyped-call]
        session.step()
        found = {(one.site, one.key): one.value for one in session.records()}
    model.zero_grad(set_to_none=True)
    for (site, key), value in found.items():
        gemm, _, name = key.rpartition(".")
        if gemm == "wgrad.dy" and name in sums:
            sums[name].append((value, found[site, "wgrad.dy.n"]))
    return {
        name: sum(share * n for share, n in parts) / sum(n for _, n in parts)
        for name, parts in sums.items()
        if parts
    }


def _quantizes_gradient(module: nn.Module) -> bool:
    return isinstance(module, QuantizedLayer) and isinstance(module.recipe.wgrad.a, QuantSpec)
