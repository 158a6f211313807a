"""A transform that is in force at one layer, and the way back."""

from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from qprobe.errors import InputError
from qprobe.quant.layers import QuantizedLayer
from qprobe.quant.products import Quantizer


class Applied:
    """One transform at one layer; :meth:`undo` or the end of a ``with`` block takes it away.

    What was applied last is undone first. Calling :func:`qprobe.quant.convert` or
    :func:`~qprobe.quant.override` on the layer replaces its quantizer and so ends a transform too.
    """

    def __init__(self, transform: str, path: str, undo: Callable[[], None]) -> None:
        #: What it is: ``smooth``, ``svd`` or ``rotate``.
        self.transform = transform
        #: The layer's path in the model.
        self.path = path
        self._undo: Callable[[], None] | None = undo

    def undo(self) -> None:
        """Put the layer back as it was, to the bit; the second time this does nothing."""
        if self._undo is not None:
            self._undo()
            self._undo = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        state = "undone" if self._undo is None else "in force"
        return f"Applied({self.transform} at {self.path}, {state})"


def quantized_layer(model: nn.Module, path: str) -> QuantizedLayer:
    """The layer called ``path``, which has to be under a recipe that quantizes its forward pass."""
    layer = layer_at(model, path)
    if not isinstance(layer, QuantizedLayer):
        raise InputError(
            f"{path} is a {type(layer).__name__} in high precision; put it under a recipe first, "
            "with qprobe.convert or qprobe.override."
        )
    if not layer.recipe.fprop.quantizes:
        raise InputError(
            f"{path} is under {layer.recipe.name}, which leaves the forward product in high "
            "precision; a transform has nothing to smooth there."
        )
    return layer


def layer_at(model: nn.Module, path: str) -> nn.Module:
    """The module called ``path``."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        kinds = (nn.Linear, nn.modules.conv._ConvNd)  # noqa: SLF001  (the base of all six)
        paths = [name for name, module in model.named_modules() if isinstance(module, kinds)]
        shown = ", ".join(paths[:6]) + (f" and {len(paths) - 6} more" if len(paths) > 6 else "")
        raise InputError(f"the model has no module {path!r}; its layers are {shown}.") from None


def with_quantizer(layer: QuantizedLayer, path: str, quantizer: Quantizer) -> Callable[[], None]:
    """Give a layer another quantizer, and return what puts the former one back."""
    before = layer.setup
    after = replace(before, quantizer=quantizer)
    layer.setup = after

    def undo() -> None:
        if getattr(layer, "setup", None) is not after:
            raise InputError(
                f"{path} was given another quantizer or recipe since; undo what was applied last "
                "first."
            )
        layer.setup = before

    return undo


def with_values(parameters: dict[Tensor, Tensor]) -> Callable[[], None]:
    """Write values into parameters in place, and return what writes the former bits back."""
    before = {parameter: parameter.detach().clone() for parameter in parameters}

    def write(values: dict[Tensor, Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in values.items():
                parameter.copy_(value)

    write(parameters)
    return lambda: write(before)
