"""A model of which nothing is under a recipe: why, in one sentence, before anything is measured."""

from collections.abc import Sequence

from torch import nn

from qprobe.errors import InputError
from qprobe.quant import convert
from qprobe.quant.convert import Conversion, LeftAlone
from qprobe.quant.layers import QuantizedLayer

#: Layers that a sentence names.
_NAMED = 3
#: What a recipe that quantizes nothing says of every layer that another one would take.
_TAKEN = "the recipe quantizes nothing"


def check_quantized(
    model: nn.Module, name: str, advice: str, conversion: Conversion | None = None
) -> None:
    """Refuse a model without a quantized layer, by what would help.

    ``conversion`` is what was asked for, where something was; else ``advice`` says how to ask. A
    model that has nothing for any recipe is told so, with what it has instead.
    """
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        return
    possible = convert(model, "bf16", "all").left_alone  # changes nothing here, and names it all
    if not any(one.rule == _TAKEN for one in possible):
        has = f" ({_list(possible)})" if possible else ""
        raise InputError(
            f"{name} has no layer that a recipe quantizes{has}; give a model with linear layers or "
            "convolutions."
        )
    if conversion is not None:
        raise InputError(
            f"{conversion.recipe} leaves every layer of {name} in high precision "
            f"({_list(conversion.left_alone)}); take them with --layers all, or another recipe."
        )
    raise InputError(f"{name} has no quantized layer; {advice}.")


def _list(left: Sequence[LeftAlone]) -> str:
    told = [f"{one.path or 'the model itself'}: {one.rule}" for one in left[:_NAMED]]
    rest = len(left) - len(told)
    return "; ".join([*told, f"{rest} more"] if rest else told)
