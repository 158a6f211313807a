"""What a recipe does to the attention of a running model: logits, probabilities, predictions.

Two paths are told apart. *Projection* is what the recipes do: queries and keys come from a linear
layer with quantized operands, their product is taken in high precision. *Products* is what the
paper argues with: queries and keys themselves are rounded to NVFP4 along the head's channels. Both
are local: high precision and four bits get the same input, the one that the running model had.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qprobe.inference import average_precision
from qprobe.models.transformer import HeadedAttention
from qprobe.quant import NVFP4, Operand, QuantSpec, restored
from qprobe.quant.attention import QuantizedScaledDotProduct
from qprobe.quant.layers import QuantizedLayer
from qprobe.quant.quantize import quantize_operand
from qprobe.stats import (
    LogitError,
    logit_error,
    prediction_levels,
    probabilities,
    softmax_error,
    softmax_levels,
)

#: How queries and keys are compared with those in high precision.
PATHS = ("projection", "products", "products rotated")
#: Mean over layers of a value, and the value of its worst layer: which end that is.
_WORST = {
    "snr_db": min,
    "error_nats": max,
    "total_variation": max,
    "levels_ratio": min,
    "flip_rate": max,
}
_KEYS = (*_WORST, "logit_std", "entropy_change_nats", "vanished")

Values = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One call of one attention: its projection's input, and the heads that it made of it."""

    layer: HeadedAttention
    x: Tensor
    q: Tensor
    k: Tensor
    #: What is added to the logits: position bias, and −∞ where a key is hidden.
    bias: Tensor | None

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        """``q·kᵀ·scale`` without the bias, ``[windows, heads, queries, keys]``."""
        scale = self.layer.product.scale
        return q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)

    def projected(self) -> tuple[Tensor, Tensor]:
        """Queries and keys of the same input by the original weight, in high precision."""
        y = F.linear(self.x, self.layer.qkv.weight, self.layer.qkv.bias)
        heads = y.unflatten(-1, (3, self.layer.heads, -1)).permute(2, 0, 3, 1, 4)
        return heads[0], heads[1]

    def pair(self, path: str) -> tuple[Tensor, Tensor]:
        """Logits in high precision and in four bits, of one input."""
        if path == "projection":
            return self.logits(*self.projected()), self.logits(self.q, self.k)
        rotation = 16 if path == "products rotated" else None
        how = Operand(axes=-1, spec=QuantSpec(format=NVFP4), hadamard=rotation)
        rounded = [quantize_operand(one, how, None, torch.float32) for one in (self.q, self.k)]
        return self.logits(self.q, self.k), self.logits(*rounded)


@contextmanager
def calls(model: nn.Module) -> Iterator[list[Call]]:
    """What every attention of ``model`` is given inside, in the order of the calls."""
    found: list[Call] = []
    inputs: dict[nn.Module, Tensor] = {}
    handles = []
    for layer in [one for one in model.modules() if isinstance(one, HeadedAttention)]:

        def keep(_: nn.Module, args: tuple[Any, ...], __: Tensor, at: nn.Module = layer) -> None:
            inputs[at] = args[0].detach()

        def look(_: nn.Module, args: tuple[Any, ...], at: HeadedAttention = layer) -> None:
            q, k, _v, bias = args
            bias = None if bias is None else bias.detach()
            found.append(Call(layer=at, x=inputs.pop(at), q=q.detach(), k=k.detach(), bias=bias))

        handles.append(layer.qkv.register_forward_hook(keep))
        handles.append(layer.product.register_forward_pre_hook(look))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def attention_errors(model: nn.Module, images: Tensor) -> dict[str, Values]:
    """Errors of logits and probabilities of a model that runs under its recipe, by path.

    Each is a mean over layers (of dB, so the geometric mean of the SNR) and, as ``worst_*``, that
    of the worst layer. A layer without any error has no SNR; where none has one, the key is absent.
    """
    with calls(model) as seen:
        model(images)
    return {path: _over_layers([_errors(call, path) for call in seen]) for path in PATHS}


def _errors(call: Call, path: str) -> Values:
    before, after = call.pair(path)
    p, q = (probabilities(logits, call.bias) for logits in (before, after))
    states = (
        logit_error(before, after, call.bias),
        softmax_error(p, q, call.bias),
        softmax_levels(p, q, call.bias),
    )
    found: Values = {}
    for state in states:
        scalars = state.scalars()
        found |= {key: float(scalars[key]) for key in _KEYS if key in scalars}
    if isinstance(states[0], LogitError) and found.get("error_nats") == 0:
        found.pop("snr_db", None)  # no error at all: infinitely many decibels are no number
    return found


def _over_layers(layers: Sequence[Values]) -> Values:
    found: Values = {}
    for key in _KEYS:
        values = [layer[key] for layer in layers if key in layer]
        if values:
            found[key] = fmean(values)
            if key in _WORST:
                found[f"worst_{key}"] = _WORST[key](values)
    return found


@torch.no_grad()
def prediction_change(model: nn.Module, images: Tensor, foreground: Tensor) -> Values:
    """The staircase of a running model's predictions, beside itself in high precision.

    ``levels_ratio`` compares effective levels (:func:`qprobe.stats.prediction_levels`),
    ``distinct`` counts probabilities in half precision, ``largest_step`` is the largest jump of
    recall between two neighbouring thresholds, and ``auprc`` what all that is worth;
    ``*_reference`` is without quantization.
    """
    after = model(images).cpu()
    with restored(model, quantized_paths(model)):
        before = model(images).cpu()
    levels = prediction_levels(torch.sigmoid(-before.abs()), torch.sigmoid(-after.abs())).scalars()
    found = {"levels_ratio": float(levels["levels_ratio"])}
    found |= {f"{key}_reference": value for key, value in staircase(before, foreground).items()}
    return found | staircase(after, foreground)


def staircase(logits: Tensor, foreground: Tensor) -> Values:
    """Steps of the precision-recall curve of some logits, with thresholds in half precision.

    >>> staircase(torch.tensor([0.0, 0.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0, 1.0]))
    {'distinct': 3.0, 'largest_step': 0.6666666865348816, 'auprc': 0.8333333333333333}
    """
    p, positive = logits.sigmoid().half().flatten(), foreground.flatten() > 0
    steps = p[positive].unique(return_counts=True)[1]
    return {
        "distinct": float(len(p.unique())),
        "largest_step": float(steps.max() / steps.sum()),
        "auprc": average_precision(p.float().numpy(), positive.numpy()),
    }


def quantized_paths(model: nn.Module) -> list[str]:
    """Paths of everything in a model that runs under a recipe."""
    kinds = (QuantizedLayer, QuantizedScaledDotProduct)
    return [path for path, module in model.named_modules() if isinstance(module, kinds)]
