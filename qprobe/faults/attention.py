"""Defects of attention: logits that grew, and keys with an offset that softmax does not see."""

import torch
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.faults.fault import Example, Place, Traces, layer_of, more_than_one, quantized_layers
from qprobe.quant.attention import QuantizedScaledDotProduct, ScaledDotProduct
from qprobe.quant.ptq.applied import with_values
from qprobe.records.schema import Role
from qprobe.sites import trace

#: What projections are called in PyTorch, MONAI, timm and transformers.
_PACKED = frozenset({"qkv", "to_qkv", "in_proj_qkv"})
_QUERY = frozenset({"q_proj", "query", "q", "to_q", "q_lin"})


def projections(model: nn.Module, _: Example) -> list[str]:
    """Quantized linears that make queries, alone or packed with keys and values."""
    names = _PACKED | _QUERY
    return [
        path
        for path, layer in quantized_layers(model).items()
        if path.rpartition(".")[2] in names and isinstance(layer, nn.Linear)
    ]


def quantized_products(model: nn.Module, example: Example) -> list[str]:
    """Packed projections with a bias whose attention product is quantized too."""
    return [
        path
        for path in projections(model, example)
        if path.rpartition(".")[2] in _PACKED
        and layer_bias(model, path) is not None
        and any(isinstance(one, QuantizedScaledDotProduct) for one in _siblings(model, path))
    ]


def layer_bias(model: nn.Module, path: str) -> Tensor | None:
    """The bias of the layer called ``path``."""
    bias = model.get_submodule(path)._parameters.get("bias")  # noqa: SLF001
    return bias if isinstance(bias, Tensor) else None


def _siblings(model: nn.Module, path: str) -> list[nn.Module]:
    return list(model.get_submodule(path.rpartition(".")[0]).children())


def also_called(place: Place) -> tuple[str, ...]:
    """The attention that a projection belongs to, and the product that it feeds.

    A product is a module, or a call of the attention itself, which an example shows.
    """
    parent = place.path.rpartition(".")[0]
    products = [
        f"{parent}.{name}"
        for name, child in place.model.get_submodule(parent).named_children()
        if isinstance(child, ScaledDotProduct)
    ]
    traced = trace(place.model, *place.example).attentions if place.example else ()
    calls = [str(one.product) for one in traced if one.product.path == parent]
    return (parent, *products, *calls)


def logit_growth(place: Place) -> Traces:
    """Queries, and so logits, become ``strength`` times as large: the function changes too."""
    more_than_one(place, "factor")
    layer = layer_of(place)
    rows = _rows(place)
    values: dict[Tensor, Tensor] = {}
    for name in ("weight", "bias"):
        parameter = layer._parameters.get(name)  # noqa: SLF001
        if parameter is not None:
            grown = parameter.detach().clone()
            grown[rows] *= place.strength
            values[parameter] = grown
    undo = with_values(values)
    also = also_called(place)
    return Traces(undo=(undo,), roles=(Role.ATTN_LOGITS,), also=also)


def _rows(place: Place) -> slice:
    """The output rows of a projection that are queries."""
    rows = layer_of(place).get_parameter("weight").shape[0]
    return slice(0, rows // 3) if place.path.rpartition(".")[2] in _PACKED else slice(0, rows)


def key_offset(place: Place) -> Traces:
    """Every key gets the same offset in one channel a head, ``strength`` times the keys' size.

    It adds one number to all logits of a query, which softmax takes off again; the quantizer of the
    product does not. The keys' size is taken from the weight, for inputs of size one.
    """
    layer = layer_of(place)
    weight, bias = layer.get_parameter("weight"), layer_bias(place.model, place.path)
    heads = _heads(place)
    if bias is None or len(bias) % (3 * heads):
        raise InputError(f"{place.path} has no bias for queries, keys and values of {heads} heads.")
    width = len(bias) // 3
    channel = place.drawn(width // heads)
    at = width + torch.arange(heads) * (width // heads) + channel
    keys = weight.detach()[width : 2 * width]
    size = keys.square().sum(1).mean().sqrt() * place.strength
    moved = bias.detach().clone()
    moved[at.to(moved.device)] += size * place.signs(heads).to(moved)
    also = also_called(place)
    return Traces(undo=(with_values({bias: moved}),), roles=(Role.ATTN_LOGITS,), also=also)


def _heads(place: Place) -> int:
    parent = place.model.get_submodule(place.path.rpartition(".")[0])
    heads = getattr(parent, "heads", None) or getattr(parent, "num_heads", None)
    if not isinstance(heads, int):
        raise InputError(f"the attention around {place.path} does not say how many heads it has.")
    return heads
